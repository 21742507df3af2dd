//! Lower layers that come and go at random moments: in random histories, beneath programs that go on, and where the process
//! is killed at one of its system calls.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use plyfs::Union;
use plyfs::testing::seam::{Plan as Kill, with_plan};
use plyfs::union::{LayerChange, LayerPlace, Live, Step};
use proptest::prelude::*;

use crate::about;
use crate::common::scratch::memory;
use crate::common::stack::Layer;
use crate::common::*;
use crate::engine::{Engine, config};
use crate::layers::{Joined, sh, warm};
use crate::live::{asking, beside};
use crate::model::layers::{Plan, Thing, fill, plan, words};
use crate::model::real::Real;
use crate::model::{self, Op, Subject, history};

/// Four layers on disk, of which the last two are mounted.
fn joined(plans: &[Plan]) -> Joined {
    let scratch = fill(Stack::new(4), plans);
    let layers = [0, 1, 2, 3].map(|n| Layer::new(scratch.lowers[n].root().to_owned()));
    Joined::over(scratch, layers, vec![2, 3])
}

/// Whether a layer may be kept for this reason.
fn is_reason(why: &str) -> bool {
    ["open or mapped", "only lower layer", "whose data is still in the layers"].iter().any(|known| why.contains(known))
}

/// A layer joins or goes, where `draw` says.
fn change(joined: &mut Joined, draw: usize) -> Result<String, String> {
    let n = draw % 4;
    let done = if joined.order.contains(&n) {
        joined.remove(n)
    } else {
        let at = draw / 4 % (joined.order.len() + 1);
        joined.add(n, at)
    };
    match done {
        Ok(said) => Ok(said),
        Err(why) if is_reason(&why) => Ok(why),
        Err(why) => Err(why),
    }
}

fn one(plans: &[Plan], ops: &[(Op, u8)], links: bool) -> Result<(), String> {
    let mut joined = joined(plans);
    let (mut log, mut draw) = (String::new(), 0);
    {
        let mut real = Real::new(&joined.mount);
        for (op, which) in ops {
            let op = op.resolve(&real.known());
            let outcome = real.apply(&op);
            log += &format!("  {op:?}{}\n", if outcome.is_ok() { "" } else { " failed" });
            draw += 7919 + usize::from(*which);
            let said = match which {
                0..8 => change(&mut joined, draw).map_err(|why| format!("{log}{why}"))?,
                8 => about("commit", joined.mount.root()).unwrap_or_else(|why| why),
                _ => continue,
            };
            log += &format!("  = {which} {said}");
            // Where hard links of lower files are changed only a mount with the index shows the same.
            if !links {
                joined.checked(&format!("with {:?}", joined.order)).map_err(|why| format!("{log}{why}"))?;
            }
        }
    }
    // What somebody holds is forgotten.
    warm(joined.mount.root());
    // A commit ends the count of names outside the view.
    joined.checked_by_remount(&format!("{log}at the end"), !links)
}

fn run(cases: u64, salt: u64, links: bool) {
    within(900, move || {
        let thing = (prop::collection::vec(0..3u8, 1..4), any::<u8>(), any::<u8>());
        let thing = thing.prop_map(|(path, kind, n)| Thing { path, kind, n });
        let things = prop::collection::vec(prop::collection::vec(thing, 0..14), 4..=4);
        let ops = (history(40), prop::collection::vec(any::<u8>().prop_map(|n| n % 32), 40));
        let ops = ops.prop_map(|(ops, which)| ops.into_iter().zip(which).collect::<Vec<_>>());
        type Drawn = (Vec<Vec<Thing>>, Vec<(Op, u8)>);
        let test = |(things, ops): &Drawn| one(&plan(things, links), ops, links);
        let words = |(things, _): &Drawn| words(&plan(things, links));
        model::check(cases, salt, proptest::strategy::Strategy::boxed((things, ops)), test, words);
    });
}

#[test]
fn each_history_with_layers_shows_what_a_fresh_mount_does() {
    run(40, 401, false);
}

#[test]
fn the_same_with_lower_hard_links() {
    run(30, 402, true);
}

/// Two layers to mount, and two that come and go beneath a program.
fn beneath() -> Joined {
    let stack = Stack::new(0);
    let layers = [0, 1, 2, 3].map(|n| Layer::new(stack.scratch.dir(&format!("layer{n}"))));
    let [one, two, app, base] = &layers;
    base.file("log", "first\n").file("mapped", vec![b'.'; 64 << 10]).file("d/f", "f").file("random", vec![0; 1 << 20]);
    app.file("d/app", "a").file("e/f", "f");
    one.file("log", "hidden by the upper layer\n").file("d/f", "one").file("d/one", "1").file("mapped", "hidden");
    two.opaque("d")
        .file("d/two", "2")
        .whiteout("e")
        .file("random", "hidden")
        .file(".git/no", "")
        .file("data.sqlite", "no");
    Joined::over(stack, layers, vec![2, 3])
}

/// A hundred times a layer joins or goes. What is open is in the upper layer, so that each of them succeeds.
fn come_and_go(joined: &mut Joined) {
    let mut draw = 4711;
    for _ in 0..100 {
        draw = draw * 48271 % 0x7fff_ffff;
        std::thread::sleep(Duration::from_millis(draw as u64 % 15));
        let n = draw % 2;
        let done = if joined.order.contains(&n) { joined.remove(n) } else { joined.add(n, draw / 2 % 3) };
        done.unwrap_or_else(|why| panic!("{n} {:?}: {why}", joined.order));
    }
}

#[test]
fn an_appending_program_loses_nothing() {
    within(120, || {
        let mut joined = beneath();
        let mut file = File::options().append(true).open(joined.mount.at("log")).unwrap();
        file.write_all(b"own\n").unwrap();
        let append = move |over: &AtomicBool| {
            let mut lines = 0;
            while !over.load(Relaxed) {
                file.write_all(format!("{lines}\n").as_bytes()).unwrap();
                lines += 1;
            }
            lines
        };
        let lines = beside(append, || come_and_go(&mut joined));
        let lines = (0..lines).map(|n| format!("{n}\n"));
        let expected: String = ["first\nown\n".to_owned()].into_iter().chain(lines).collect();
        assert!(fs::read_to_string(joined.mount.at("log")).unwrap() == expected);
        assert!(expected.len() > 1000);
        joined.check("after a hundred");
    });
}

#[test]
fn a_mapping_is_written_on() {
    within(120, || {
        let mut joined = beneath();
        let file = File::options().read(true).write(true).open(joined.mount.at("mapped")).unwrap();
        file.write_at(b"up", 0).unwrap();
        let mut map = SharedMap::new(&file, 64 << 10, true);
        let write = move |over: &AtomicBool| {
            let mut round = 0usize;
            while !over.load(Relaxed) {
                let (page, byte) = (round % 16 * 4096 + 100, [(round % 251) as u8]);
                map.put(page, &byte);
                if round.is_multiple_of(64) {
                    map.sync().unwrap();
                }
                assert_eq!(map.get(page, 1), byte);
                round += 1;
            }
            map.sync().unwrap();
            (0..16).map(|page| map.get(page * 4096 + 100, 1)[0]).collect::<Vec<u8>>()
        };
        let expected = beside(write, || come_and_go(&mut joined));
        let read = joined.mount.read("mapped").unwrap();
        assert_eq!((0..16).map(|page| read[page * 4096 + 100]).collect::<Vec<u8>>(), expected);
        drop(file);
        joined.check("after a hundred");
    });
}

#[test]
fn random_reads_and_writes_see_no_wrong_byte() {
    within(180, || {
        let mut joined = beneath();
        joined.mount.pwrite("random", 0, b"up").unwrap();
        let root = joined.mount.root().to_owned();
        let write = move |over: &AtomicBool| {
            let file = File::options().read(true).write(true).open(root.join("random")).unwrap();
            let mut model = vec![0u8; 1 << 20];
            model[..2].copy_from_slice(b"up");
            let (mut draw, mut rounds) = (99usize, 0usize);
            while !over.load(Relaxed) {
                draw = draw * 48271 % 0x7fff_ffff;
                let (at, len) = (draw % (1 << 20), 1 + draw / 7 % 9000);
                let at_most = len.min((1 << 20) - at);
                match draw % 5 {
                    0 | 1 => {
                        let bytes: Vec<u8> = (0..at_most).map(|n| (n + draw) as u8).collect();
                        file.write_all_at(&bytes, at as u64).unwrap();
                        model[at..at + at_most].copy_from_slice(&bytes);
                    }
                    2 => {
                        file.set_len(at as u64).unwrap();
                        file.set_len(1 << 20).unwrap();
                        model[at..].fill(0);
                    }
                    3 => {
                        // Under its name, which layers below the upper one have, too.
                        let again = File::open(root.join("random")).unwrap();
                        let mut bytes = vec![0; at_most];
                        again.read_exact_at(&mut bytes, at as u64).unwrap();
                        assert!(bytes == model[at..at + at_most], "{at} {at_most}");
                    }
                    _ => {
                        let mut bytes = vec![0; at_most];
                        file.read_exact_at(&mut bytes, at as u64).unwrap();
                        assert!(bytes == model[at..at + at_most], "{at} {at_most}");
                    }
                }
                rounds += 1;
            }
            (model, rounds)
        };
        let (model, rounds) = beside(write, || come_and_go(&mut joined));
        assert!(joined.mount.read("random").unwrap() == model);
        assert!(rounds > 500, "{rounds}");
    });
}

#[test]
fn sqlite_goes_on_with_its_wal() {
    if Command::new("sqlite3").arg("-version").output().is_err() {
        skip!("no sqlite3");
    }
    within(240, || {
        let mut joined = beneath();
        let database = joined.mount.at("data.sqlite");
        let sql = |input: String| {
            let mut child = Command::new("sqlite3")
                .arg("-bail")
                .arg(&database)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            child.stdin.take().unwrap().write_all(format!(".timeout 20000\n{input}").as_bytes()).unwrap();
            let out = child.wait_with_output().unwrap();
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            String::from_utf8(out.stdout).unwrap()
        };
        sql("PRAGMA journal_mode=WAL; CREATE TABLE t (n INTEGER, x TEXT);".into());
        let mut rows = 0;
        std::thread::scope(|scope| {
            let steps = scope.spawn(|| come_and_go(&mut joined));
            while !steps.is_finished() {
                let insert = |n: u32| format!("INSERT INTO t VALUES ({n}, hex(randomblob(200)));");
                sql((rows..rows + 50).map(insert).collect());
                rows += 50;
            }
            steps.join().unwrap();
        });
        let expected = format!("ok\n{rows}|{}\n", u64::from(rows) * u64::from(rows - 1) / 2);
        assert_eq!(sql("PRAGMA integrity_check; SELECT count(*), sum(n) FROM t;".into()), expected);
    });
}

#[test]
fn git_goes_on() {
    if Command::new("git").arg("--version").output().is_err() {
        skip!("no git");
    }
    within(240, || {
        let mut joined = beneath();
        let root = joined.mount.root().to_owned();
        sh(
            &root,
            "git init -q . 2> /dev/null; git config user.email a@b; git config user.name a; git config gc.auto 0",
        );
        let mut commits = 0;
        std::thread::scope(|scope| {
            let steps = scope.spawn(|| come_and_go(&mut joined));
            while !steps.is_finished() {
                let script = "mkdir -p own; echo $N > own/$N; git add own; git commit -qm $N; git status > /dev/null";
                sh(&root, &format!("N={commits}; {script}"));
                if commits % 10 == 9 {
                    sh(&root, "git gc -q");
                }
                commits += 1;
            }
            steps.join().unwrap();
        });
        let count = Command::new("git").args(["rev-list", "--count", "HEAD"]).current_dir(&root).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&count.stdout).trim(), commits.to_string());
        sh(&root, "git fsck --strict 2> /dev/null; test -z \"$(git status --porcelain own)\"");
        joined.check("after git");
    });
}

#[test]
fn requests_wait_no_longer_than_for_a_slow_disk() {
    within(120, || {
        let stack = Stack::new(0);
        let layers = [0, 1, 2, 3].map(|n| Layer::new(stack.scratch.dir(&format!("layer{n}"))));
        for dir in 0..50 {
            for file in 0..100 {
                layers[3].file(&format!("{dir}/{file}"), "");
            }
            layers[0].file(&format!("{dir}/one"), "");
        }
        let mut joined = Joined::over(stack, layers, vec![3]);
        let root = joined.mount.root().to_owned();
        sh(&root, "ls -lR > /dev/null");
        let longest = beside(asking(root), || {
            for _ in 0..5 {
                joined.add(0, 0).unwrap();
                joined.remove(0).unwrap();
            }
        });
        assert!(longest < patience(Duration::from_secs(1)), "{longest:?}");
    });
}

/// Two lower layers, an upper one with all sorts of changes, and a layer that joins.
fn on_disk() -> tempfile::TempDir {
    let scratch = tempfile::tempdir_in(memory()).unwrap();
    let base = scratch.path();
    for dir in ["lower/d/e", "other/d", "more/d", "upper", "work"] {
        fs::create_dir_all(base.join(dir)).unwrap();
    }
    let files =
        ["lower/a", "lower/d/f", "other/a", "other/b", "other/d/f", "other/d/g", "more/b", "more/d/g", "more/new"];
    files.iter().for_each(|file| fs::write(base.join(file), file).unwrap());
    let engine = open(base);
    engine.chmod("b", 0o600).unwrap();
    engine.rename("d/g", "g").unwrap();
    engine.rename("d", "moved").unwrap();
    engine.write("a", 0, "changed").unwrap();
    drop(engine);
    scratch
}

fn settings(base: &Path) -> plyfs::config::Config {
    let mut config = config(&base.join("lower"), base);
    config.lowers.push(base.join("other"));
    config
}

fn open(base: &Path) -> Engine {
    Engine::around(Union::open(settings(base)).unwrap_or_else(|error| panic!("{error:?}")))
}

fn take(base: &Path, step: &Step) -> Result<(), String> {
    let union = Union::open(settings(base)).map_err(|error| error.to_string())?;
    let live = Live::new(Arc::new(union));
    live.step(step, &|| Ok(())).map(drop).map_err(|error| error.to_string())
}

#[test]
fn a_change_of_the_layers_that_is_killed_has_changed_nothing() {
    use std::os::unix::fs::MetadataExt;
    let steps: [fn(&Path) -> LayerChange; 2] = [
        |base| {
            let (dir, at) = (base.join("more"), LayerPlace::Top);
            let stat = fs::metadata(&dir).unwrap();
            LayerChange::Add { dir, seen: (stat.dev(), stat.ino()), at }
        },
        |base| LayerChange::Remove { dir: base.join("other") },
    ];
    for step in steps {
        let mut calls_seen = 0;
        for at in 0.. {
            let scratch = on_disk();
            let base = scratch.path();
            let before = open(base).view().unwrap();
            let step = Step::Layers(step(base));
            let (done, calls) = with_plan(Kill::dead_from(at), || take(base, &step));
            assert!(open(base).view().unwrap() == before, "killed at call {at}: {done:?}");
            if calls <= at {
                break;
            }
            calls_seen = at;
        }
        assert!(calls_seen > 30, "{calls_seen}");
    }
}
