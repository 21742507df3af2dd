//! The end of the process at every call of a history, and a failing call at every place in it.

use plyfs::Errno;
use plyfs::testing::seam::{Call, Part, Plan, with_plan};
use plyfs::union::WriteHow;

use crate::engine::{Engine, Result, me};
use crate::layers::{BLOCK, Layers, SIZE, abandon, read};

/// A step, and what it does to the bytes.
enum Step {
    Write(usize, Vec<u8>),
    Truncate(usize),
    Fsync,
    Complete,
}

use Step::{Complete, Fsync, Truncate, Write};

impl Step {
    fn act(&self, engine: &Engine) -> Result<()> {
        let id = engine.id("f")?;
        match self {
            Write(at, data) => {
                let written = engine.0.write(&me(), id, *at as u64, data, WriteHow::default())?;
                // Fewer count for as many.
                if written == data.len() { Ok(()) } else { Err(Errno::EAGAIN) }
            }
            Truncate(size) => engine.truncate("f", *size as u64),
            Fsync => engine.0.fsync(id, true),
            Complete => match engine.0.complete_all()? {
                done if done.failed == 0 => Ok(()),
                _ => Err(Errno::EIO),
            },
        }
    }

    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Write(at, data) => {
                bytes.resize(bytes.len().max(at + data.len()), 0);
                bytes[*at..at + data.len()].copy_from_slice(data);
            }
            Truncate(size) => bytes.resize(*size, 0),
            Fsync | Complete => {}
        }
    }

    /// Whether `seen` is a state on the way from `before` to the one after it: of a write to some blocks that are here and
    /// some that are not, the first may be done.
    fn is_between(&self, seen: &[u8], before: &[u8], after: &[u8]) -> bool {
        let Write(at, data) = self else { return false };
        let mut bytes = before.to_vec();
        (0..=data.len()).any(|len| {
            let end = at + len;
            bytes.resize(bytes.len().max(end), 0);
            bytes[*at..end].copy_from_slice(&data[..len]);
            bytes == seen
        }) || seen == after
    }
}

fn histories() -> Vec<(&'static str, Vec<Step>)> {
    let fill = |byte, len| vec![byte; len];
    vec![
        ("the first write", vec![Write(9000, fill(1, 50))]),
        (
            "writes within and across blocks",
            vec![
                Write(9000, fill(1, 50)),
                Write(2 * BLOCK + 100, fill(2, 3 * BLOCK)),
                Write(4 * BLOCK, fill(3, BLOCK)),
                Write(BLOCK - 1, fill(4, 2)),
            ],
        ),
        (
            "the end of the file",
            vec![Write(SIZE - 5, fill(1, 3)), Write(SIZE - 1, fill(2, 3000)), Write(SIZE + 20_000, fill(3, 10))],
        ),
        ("past the end first", vec![Write(SIZE + 20_000, fill(3, 10)), Write(SIZE - 100, fill(4, 6000))]),
        ("syncs", vec![Write(9000, fill(1, 50)), Fsync, Write(50_000, fill(2, 50)), Fsync]),
        ("completion", vec![Write(9000, fill(1, 50)), Complete, Write(SIZE, fill(2, 10))]),
        ("cut and grown", vec![Write(9000, fill(1, 50)), Truncate(12_345), Write(30_000, fill(2, 10))]),
        ("emptied and grown", vec![Write(9000, fill(1, 50)), Truncate(0), Write(30_000, fill(2, 10))]),
        ("grown", vec![Write(9000, fill(1, 50)), Truncate(SIZE + 9000)]),
        ("all blocks one by one", {
            let all = (0..SIZE.div_ceil(BLOCK)).step_by(20);
            all.map(|block| Write(block * BLOCK, fill(block as u8, 20 * BLOCK))).chain([Write(5, fill(9, 9))]).collect()
        }),
    ]
}

#[test]
fn an_end_at_any_call_keeps_what_was_acknowledged() {
    for (name, steps) in histories() {
        let mut at = 0;
        loop {
            let layers = Layers::new();
            let (mut before, mut ended) = (layers.content(), None);
            let engine = layers.open(Some(12));
            let (_, calls) = with_plan(Plan::dead_from(at), || {
                for (index, step) in steps.iter().enumerate() {
                    if step.act(&engine).is_err() {
                        ended = Some(index);
                        break;
                    }
                    step.apply(&mut before);
                }
                drop(engine);
            });
            let reboot = at % 3 == 2 && ended == Some(0);
            if reboot {
                layers.reboot();
            }
            for option in [None, Some(12)] {
                let engine = layers.open(option);
                let seen = read(&engine, "f");
                let mut after = before.clone();
                if let Some(step) = ended.map(|index| &steps[index]) {
                    step.apply(&mut after);
                    let right = seen == before || seen == after || step.is_between(&seen, &before, &after);
                    assert!(right, "{name}: ended at call {at}, step {ended:?}");
                } else {
                    assert!(seen == before, "{name}: ended at call {at}, after the last step");
                }
                // It goes on from there, and nothing that did not count comes back.
                let mut expected = seen;
                let more = [Write(15_000, vec![0xcc; 20]), Write(expected.len() + 5000, vec![0xdd; 20])];
                for step in more {
                    step.act(&engine).unwrap();
                    step.apply(&mut expected);
                }
                assert!(read(&engine, "f") == expected, "{name}: ended at call {at}, and then written to");
                engine.0.complete_all().unwrap();
                assert!(read(&engine, "f") == expected, "{name}: ended at call {at}, and then completed");
                assert!(!layers.has_incompat(), "{name}: ended at call {at}");
                drop(engine);
                before = expected;
                ended = None;
            }
            if at > calls {
                break;
            }
            at += 1;
        }
    }
}

/// The machine ends at any call of a cut, too, with all that was written but not synced: what was cut off never comes back.
#[test]
fn what_was_cut_off_stays_so_when_the_machine_ends() {
    let (write, cut) = (Write(9000, vec![1; 50]), Truncate(12_345));
    for at in 0.. {
        let layers = Layers::new();
        let engine = layers.open(Some(12));
        write.act(&engine).unwrap();
        let (done, calls) = with_plan(Plan::dead_from(at), || {
            let done = cut.act(&engine);
            drop(engine);
            done
        });
        layers.reboot();
        let engine = layers.open(Some(12));
        let mut bytes = read(&engine, "f");
        let mut allowed = [(); 2].map(|()| layers.content());
        write.apply(&mut allowed[1]);
        let is_cut = bytes.len() == 12_345;
        if is_cut {
            allowed.iter_mut().for_each(|bytes| cut.apply(bytes));
        }
        assert!(allowed.contains(&bytes) && (is_cut || done.is_err()), "ended at call {at}");
        let grown = Write(bytes.len() + 30_000, vec![2; 10]);
        grown.act(&engine).unwrap();
        grown.apply(&mut bytes);
        abandon(engine);
        let engine = layers.open(Some(12));
        assert!(read(&engine, "f") == bytes, "ended at call {at}, and then grown");
        if at > calls {
            break;
        }
    }
}

#[test]
fn a_write_that_fails_takes_no_room() {
    let layers = Layers::new();
    let engine = layers.open(Some(12));
    let first = Write(9000, vec![1; 50]);
    first.act(&engine).unwrap();
    let room = || std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(layers.upper().join("f")).unwrap());
    let before = room();
    for at in 0..3 {
        let plan = Plan::fail(at, Errno::ENOSPC).only(Call::Pwrite);
        let (done, _) = with_plan(plan, || Write(20 * BLOCK + 1, vec![2; 3 * BLOCK]).act(&engine));
        assert_eq!((done, room()), (Err(Errno::ENOSPC), before), "write {at} fails");
    }
}

#[test]
fn an_error_of_any_call_is_told_and_leaves_a_file_that_works() {
    for (name, steps) in histories() {
        for &call in Call::ALL {
            let mut at = 0;
            loop {
                let mut calls = 0;
                for errno in [Errno::ENOSPC, Errno::EIO] {
                    calls =
                        fail_at(name, &steps, Plan::fail(at, errno).only(call), &format!("{call:?} {at} {errno:?}"));
                }
                if at >= calls {
                    break;
                }
                at += 1;
            }
        }
    }
}

/// A call that moves a part of what it was asked for is no error: the rest is asked for again.
#[test]
fn a_short_read_or_write_of_any_call_changes_nothing() {
    for (name, steps) in histories() {
        for call in [Call::Pread, Call::Pwrite, Call::CopyRange] {
            for part in [Part::Byte, Part::Half] {
                let mut at = 0;
                while at
                    < fail_at(name, &steps, Plan::short(at, part, None).only(call), &format!("{call:?} {at} {part:?}"))
                {
                    at += 1;
                }
            }
        }
    }
}

/// Runs the steps, each again where it fails; returns how many calls of the plan's kind there were.
fn fail_at(name: &str, steps: &[Step], plan: Plan, what: &str) -> u64 {
    let layers = Layers::new();
    let engine = layers.open(Some(12));
    let mut bytes = layers.content();
    let (failed, calls) = with_plan(plan, || {
        let mut failed = None;
        for step in steps {
            let before = bytes.clone();
            step.apply(&mut bytes);
            if let Err(errno) = step.act(&engine) {
                failed.get_or_insert((before, bytes.clone(), errno, read(&engine, "f")));
                step.act(&engine).unwrap_or_else(|again| panic!("{name}: {what}: {errno:?}, and again {again:?}"));
            }
        }
        failed
    });
    if let Some((before, after, errno, seen)) = failed {
        let short = errno == Errno::EAGAIN;
        assert!(seen == before || short || seen == after, "{name}: {what}: {errno:?}, but something has changed");
    }
    assert!(read(&engine, "f") == bytes, "{name}: {what}");
    abandon(engine);
    let engine = layers.open(None);
    assert!(read(&engine, "f") == bytes, "{name}: {what}, opened again");
    engine.0.complete_all().unwrap();
    assert!(read(&engine, "f") == bytes, "{name}: {what}, completed");
    assert!(!layers.has_incompat(), "{name}: {what}");
    calls
}
