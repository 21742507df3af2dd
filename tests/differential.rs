//! Random histories on the binary under test, and the same on the kernel's OverlayFS or on a model in memory: every
//! step has the same result, and the views are equal, also after a remount.
//!
//! `PLYFS_TEST_CASES` scales the number of histories (1 is a run of CI), `PLYFS_TEST_SEED` chooses others.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;
mod model;

use std::fmt::Write as _;

use common::scratch::Mounted;
use common::*;
use model::layers::{self, Plan, build, plan, things};
use model::memory::Memory;
use model::real::Real;
use model::{Op, Step, Subject, history};
use proptest::prelude::*;

/// What is compared. The kernel without its index does not always know its own hard links, and where it is itself the
/// tested one, its d_ino is not judged (wrong after some renames and links, Linux 6.18).
fn walk(kernel: bool) -> Walk {
    let tested = mount::binary() == "kernel";
    let without_links = (kernel || tested) && who() == Who::Namespace;
    Walk { times: true, foreign: tested, without_links, ..Walk::default() }
}

/// How long a history is.
const LENGTH: usize = 60;

/// Results that are the kernel's own mistakes (Linux 6.18): fchmod of an unlinked lower file is EEXIST with the index, and
/// a copy-up after an exchange can be ESTALE; a rename that fails with ENOTEMPTY leaves its directory with a new time.
fn oracle_is_wrong(step: &Step, outcome: &model::Outcome) -> bool {
    match step {
        Step::HeldChmod(..) => matches!(outcome, Err(Errno::EXIST | Errno::STALE)),
        Step::Rename(..) => matches!(outcome, Err(Errno::NOTEMPTY | Errno::STALE)),
        _ => *outcome == Err(Errno::STALE),
    }
}

/// fstat of an unlinked lower file: the kernel (Linux 6.18) still shows the link that the layer has.
fn counts_a_dead_name(step: &Step, got: &model::Outcome, want: &model::Outcome) -> bool {
    let without = |outcome: &model::Outcome, links: &[u8]| {
        outcome.as_ref().ok().and_then(|text| text.strip_suffix(links).map(<[u8]>::to_vec))
    };
    let gone = without(got, b"links 0");
    matches!(step, Step::HeldStat(_)) && gone.is_some() && gone == without(want, b"links 1")
}

/// Runs the history on both; the error tells each step up to the one that went wrong. Returns false for a history that
/// ended early, because the oracle went wrong.
fn run(ops: &[Op], tested: &mut dyn Subject, oracle: &mut dyn Subject, walk: Walk) -> Result<bool, String> {
    let mut log = String::new();
    let compare = |tested: &dyn Subject, oracle: &dyn Subject, log: &str| {
        same(&tested.view(walk), &oracle.view(walk), &format!("{log}the views differ (tested, expected)"))
    };
    compare(tested, oracle, "at the start, ")?;
    for op in ops {
        let step = op.resolve(&oracle.known());
        let (got, want) = (tested.apply(&step), oracle.apply(&step));
        let short = |r: &model::Outcome| match r {
            Ok(bytes) if bytes.len() > 64 => format!("{} bytes", bytes.len()),
            Ok(bytes) => format!("ok {}", bytes.escape_ascii()),
            Err(e) => format!("{e:?}"),
        };
        let _ = writeln!(log, "{step:?} -> {}", short(&want));
        if oracle_is_wrong(&step, &want) {
            return Ok(false);
        }
        if got != want && !counts_a_dead_name(&step, &got, &want) {
            return Err(format!("{log}but the tested one: {}", short(&got)));
        }
        if step == Step::Compare {
            compare(tested, oracle, &log)?;
        }
    }
    compare(tested, oracle, &log)?;
    Ok(true)
}

fn same(one: &View, two: &View, what: &str) -> Result<(), String> {
    one.difference(two).map_or(Ok(()), |difference| Err(format!("{what}:\n{difference}")))
}

/// One history against the kernel's OverlayFS over a second copy of the layers.
fn against_kernel(plans: &[Plan], ops: &[Op]) -> Result<(), String> {
    let (mut stack, twin, walk) = (build(plans), build(plans), walk(true));
    if who() == Who::Namespace {
        // What the kernel refuses there.
        stack = stack.option("redirect_dir=off,metacopy=off,index=off");
    }
    let lowers: Vec<View> = stack.lowers.iter().map(|l| view::layer(l.root())).collect();
    let (mut mount, kernel) = (stack.mount(), oracle(&twin));
    let whole = run(ops, &mut Real::new(&mount), &mut Real::new(&kernel), walk)?;
    if whole {
        let before = View::of(&mount, walk);
        mount.remount();
        kernel.remount();
        let after = View::of(&mount, walk);
        same(&after, &before, "changed by the remount (after, before)")?;
        same(&after, &View::of(&kernel, walk), "after the remount (tested, kernel)")?;
        mount.unmount();
        kernel_reads(&stack, &before, walk)?;
    }
    drop(mount);
    for (layer, before) in stack.lowers.iter().zip(&lowers) {
        same(&view::layer(layer.root()), before, "a lower layer was changed (after, before)")?;
    }
    Ok(())
}

/// The kernel's OverlayFS to compare with. It goes without metacopy: it loses a file's time when one is opened for writing.
fn oracle(stack: &Stack) -> Kernel {
    let extra = if who() == Who::Root { "index=on,xino=on,redirect_dir=on" } else { "userxattr" };
    Kernel::with(&format!("{},{extra}", stack.layer_options("work")), &stack.scratch.dir("kernel")).unwrap()
}

/// The kernel's OverlayFS sees the same in the upper that the binary under test has written.
fn kernel_reads(stack: &Stack, before: &View, walk: Walk) -> Result<(), String> {
    let Some(kernel) = stack.mount_kernel() else {
        return Err("the kernel's OverlayFS does not mount the upper".into());
    };
    let seen = View::of(&kernel, Walk { foreign: true, ..walk });
    same(&seen, before, "the kernel's view of the same layers (kernel, before)")
}

/// One history against the model.
fn against_memory(plans: &[Plan], ops: &[Op]) -> Result<(), String> {
    against_memory_with(build(plans), plans, ops)
}

fn against_memory_with(stack: Stack, plans: &[Plan], ops: &[Op]) -> Result<(), String> {
    let (mut memory, walk) = (Memory::new(plans), walk(false));
    let mut mount = stack.mount();
    run(ops, &mut Real::new(&mount), &mut memory, walk)?;
    mount.remount();
    same(&View::of(&mount, walk), &memory.view(walk), "after the remount (tested, model)")
}

/// Which of four ids of the layers are shown as which of four: by how much more, and whether the last may be missing.
type Turn = (u8, bool);

/// The ranges for users and those for groups.
type Maps = [Vec<(u32, u32, u32)>; 2];

/// The ranges of a map. The oracle is mounted by root, so that 0 is one of the view.
fn ranges((turn, missing): Turn) -> Vec<(u32, u32, u32)> {
    let all = (0..4).map(|disk| (disk, (disk + u32::from(turn)) % 4, 1));
    all.filter(|(disk, view, _)| !(missing && *disk == 3 && *view != 0)).collect()
}

/// Gives the objects of the lower layers to three owners that each map has: the kernel cannot copy up a directory of
/// another one.
fn give_away(stack: &Stack, plans: &[Plan]) {
    for (layer, plan) in stack.lowers.iter().zip(plans) {
        for path in plan.keys() {
            let sum: u32 = path.bytes().map(u32::from).sum();
            let mode = layer.stat(path).unwrap().st_mode;
            layer.chown(path, sum % 3, sum / 3 % 3).unwrap();
            if rustix::fs::FileType::from_raw_mode(mode) == rustix::fs::FileType::RegularFile {
                layer.chmod(path, mode & 0o7777).unwrap();
            }
        }
    }
}

/// The kernel's OverlayFS over a stack whose directory is bound elsewhere with mapped ids.
fn idmapped_kernel(stack: &Stack, [uids, gids]: &Maps, metacopy: &str) -> Result<(Kernel, Mounted), String> {
    let at = stack.scratch.fresh("idmapped");
    stack.scratch.dir("work");
    let bind = idmapped::bind(stack.scratch.path(), &at, uids, gids).map_err(|e| format!("an idmapped mount: {e}"))?;
    let lowers: Vec<_> = (0..stack.lowers.len()).map(|n| format!("{}/lower{n}", at.display())).collect();
    let at = at.display();
    let layers = format!("lowerdir={},upperdir={at}/upper,workdir={at}/work", lowers.join(":"));
    let options = format!("{layers},index=on,xino=on,redirect_dir=on,metacopy={metacopy}");
    let kernel = Kernel::with(&options, &stack.scratch.dir("kernel"));
    Ok((kernel.map_err(|e| format!("OverlayFS over idmapped layers: {e}"))?, bind))
}

/// One history under a map, against the kernel's OverlayFS over idmapped layers.
fn under_a_map(plans: &[Plan], ops: &[Op], turns: [Turn; 2]) -> Result<(), String> {
    let (maps, walk) = (turns.map(ranges), walk(true));
    let [users, groups] = &maps;
    let options = format!("uidmapping={},gidmapping={}", idmapped::words(users), idmapped::words(groups));
    let (stack, twin) = (build(plans).option(&options), build(plans));
    [&stack, &twin].iter().for_each(|stack| give_away(stack, plans));
    let (mut mount, (kernel, _bind)) = (stack.mount(), idmapped_kernel(&twin, &maps, "off")?);
    let whole = run(ops, &mut Real::new(&mount), &mut Real::new(&kernel), walk)
        .map_err(|why| format!("with {options}, {why}"))?;
    if whole {
        let before = View::of(&mount, walk);
        mount.remount();
        same(&View::of(&mount, walk), &before, "changed by the remount (after, before)")?;
        mount.unmount();
        let (kernel, _bind) = idmapped_kernel(&stack, &maps, "on")?;
        let seen = View::of(&kernel, Walk { foreign: true, ..walk });
        same(&seen, &before, "the kernel's view of the same layers (kernel, before)")?;
    }
    Ok(())
}

type Check = fn(&[Plan], &[Op]) -> Result<(), String>;

fn check(cases: u64, links: bool, check: Check) {
    let drawn = (things(), history(LENGTH));
    let salt = env_number("PLYFS_TEST_SEED", 1); // the seeds of old still draw the same
    model::check(
        cases,
        salt,
        drawn,
        |(drawn, ops)| check(&plan(drawn, links), ops),
        |(drawn, _)| layers::words(&plan(drawn, links)),
    );
}

/// The kernel keeps hard links of a lower file together only with its index, which a user namespace does not get.
fn kernel_case(cases: u64, links: bool) {
    rustix::process::umask(0o022.into());
    if !Kernel::usable() {
        skip!("no kernel OverlayFS to compare with here");
    }
    if links && who() != Who::Root {
        skip!("the kernel's index needs root");
    }
    within(600 * env_number("PLYFS_TEST_CASES", 1), move || check(cases, links, against_kernel));
}

fn memory_case(cases: u64, links: bool) {
    rustix::process::umask(0o022.into());
    within(600 * env_number("PLYFS_TEST_CASES", 1), move || check(cases, links, against_memory));
}

#[test]
fn histories_agree_with_the_kernel() {
    kernel_case(40, false);
}

#[test]
fn histories_with_hard_links_in_lowers_agree_with_the_kernel() {
    kernel_case(40, true);
}

/// Where there is but one id: shown as itself, and as whose everything is.
#[test]
fn histories_with_one_id_agree_with_a_model() {
    if who() == Who::Root {
        return; // He has others to give things to.
    }
    rustix::process::umask(0o022.into());
    within(600 * env_number("PLYFS_TEST_CASES", 1), || {
        check(10, true, |plans, ops| {
            let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
            for options in [
                format!("uidmapping={uid}:{uid}:1,gidmapping={gid}:{gid}:1"),
                format!("squash_to_uid={uid},squash_to_gid={gid}"),
            ] {
                against_memory_with(build(plans).option(&options), plans, ops)?;
            }
            Ok(())
        });
    });
}

#[test]
fn histories_under_maps_agree_with_the_kernels_overlay_of_idmapped_layers() {
    rustix::process::umask(0o022.into());
    if who() != Who::Root || !mount::is_plyfs() || !Kernel::usable() {
        skip!("root and the kernel's OverlayFS are needed");
    }
    let stack = Stack::new(1);
    if let Err(why) = idmapped_kernel(&stack, &[vec![(0, 0, 1)], vec![(0, 0, 1)]], "on") {
        skip!("{why}");
    }
    drop(stack);
    within(600 * env_number("PLYFS_TEST_CASES", 1), || {
        let turn = || (0..4_u8, any::<bool>());
        let drawn = (things(), history(LENGTH), turn(), turn());
        let plans = |drawn: &[Vec<layers::Thing>]| plan(drawn, false);
        model::check(
            40,
            env_number("PLYFS_TEST_SEED", 1),
            drawn,
            |(drawn, ops, users, groups)| under_a_map(&plans(drawn), ops, [*users, *groups]),
            |(drawn, ..)| layers::words(&plans(drawn)),
        );
    });
}

#[test]
fn histories_agree_with_a_model() {
    memory_case(40, false);
}

#[test]
fn histories_with_hard_links_in_lowers_agree_with_a_model() {
    memory_case(40, true);
}

#[test]
fn again_as_a_normal_user() {
    legs::as_a_normal_user();
}

#[test]
fn again_in_a_user_namespace() {
    legs::in_a_user_namespace();
}
