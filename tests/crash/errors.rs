//! A call fails, or moves only a part of what it was asked.

use plyfs::Errno;
use plyfs::config::{Fsync, XattrPermissions};
use plyfs::testing::seam::{Call, Lacks, Part, Plan, with_plan};

use crate::engine::View;
use crate::rows::Row;
use crate::stage::{Layers, Reader, Stage, Views, index_is_tidy};
use crate::{Tried, for_all_rows, for_all_rows_over, for_all_rows_without, is_walked, takes_its_time};

/// What any call may fail with: tried at every one.
const ALWAYS: [Errno; 2] = [Errno::ENOSPC, Errno::EIO];

/// Of these one is tried at each call, where the walk does not take its time.
const OTHERS: [Errno; 10] = [
    Errno::EDQUOT,
    Errno::EMFILE,
    Errno::ENFILE,
    Errno::ENOMEM,
    Errno::EROFS,
    Errno::ESTALE,
    Errno::EINTR,
    Errno::ENOSYS,
    Errno::EACCES,
    Errno::EPERM,
];

/// What is done to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Fails(Errno),
    /// It moves a part, and the next one fails.
    Moves(Part, Option<Errno>),
}

/// A fault at one call of an operation.
struct At<'a> {
    row: &'a Row,
    call: Call,
    at: usize,
    fault: Fault,
    /// It is the last call of its kind, but for one that reads a number of blocks.
    last: bool,
    /// Owners and modes stand in attributes.
    owners: bool,
}

impl At<'_> {
    fn plan(&self) -> Plan {
        match self.fault {
            Fault::Fails(errno) => Plan::fail(self.at as u64, errno),
            Fault::Moves(part, then) => Plan::short(self.at as u64, part, then),
        }
    }

    fn errno(&self) -> Option<Errno> {
        match self.fault {
            Fault::Fails(errno) => Some(errno),
            Fault::Moves(Part::Nothing, None) => Some(Errno::EIO),
            Fault::Moves(_, then) => then,
        }
    }

    /// Whether the operation may have been done when it answers with this error.
    fn is_of_the_answer(&self) -> bool {
        // With `fsync=strict` a copy that was cut is there when its name cannot be synced.
        let unsynced = self.call == Call::Fsync && self.row.name.starts_with("truncate");
        let looks = self.call == Call::Stat || (self.owners && self.call == Call::GetXattr);
        self.row.answers_attributes && (unsynced || (looks && self.last))
    }

    /// Whether the names of one file may part: there is no room to say which lower file the copy is of.
    fn parts_names(&self) -> bool {
        self.row.links && matches!(self.call, Call::SetXattr | Call::Handle)
    }

    /// Whether a count of links may be off by one: its mark is not written, or a link in workdir stays until the next mount.
    fn miscounts(&self) -> bool {
        let foreign = matches!(self.fault, Fault::Fails(Errno::EPERM | Errno::EACCES));
        self.row.links && (foreign || matches!(self.call, Call::SetXattr | Call::Unlink))
    }

    /// Whether something may stay in workdir for the time being: what failed is the removal of what was there.
    fn may_litter(&self, answer: &Result<String, Errno>) -> bool {
        let removes = matches!(self.call, Call::OpenBeneath | Call::ReadDir) && answer.is_ok();
        removes || matches!(self.call, Call::Unlink | Call::Rmdir) || self.parts_names()
    }

    /// Whether this is the answer that the caller has to get.
    fn check_answer(&self, answer: &Result<String, Errno>, views: &Views) -> Result<(), String> {
        // A directory without room for its redirect is not renamed: mv(1) then copies it.
        let no_room = matches!(self.errno(), Some(Errno::ENOSPC | Errno::EDQUOT | Errno::EPERM));
        let no_redirect = self.call == Call::SetXattr && no_room;
        // An entry that cannot be looked at is listed all the same.
        let names = |listing: &str| {
            listing.lines().map(|line| line.split(' ').next().unwrap_or_default().to_owned()).collect::<Vec<_>>()
        };
        let listed = self.row.name.starts_with("readdirplus");
        // Done once more, it finds the first of its two steps done.
        let twice = views.middle.is_some() && self.call == Call::Rename;
        match answer {
            Err(Errno::ENOENT) if twice => Ok(()),
            Ok(answer) if *answer == views.answer => Ok(()),
            Ok(answer) if listed && names(answer) == names(&views.answer) => Ok(()),
            Err(errno) if Some(*errno) == self.errno() => Ok(()),
            Err(Errno::EXDEV) if no_redirect => Ok(()),
            other => Err(format!("answers {other:?}, not {:?}", views.answer)),
        }
    }
}

/// Every call of a row fails.
fn fail_everywhere(stage: &Stage, row: &Row, tried: &Tried) -> Vec<String> {
    fail_where(stage, row, tried, |_| true)
}

fn fail_where(stage: &Stage, row: &Row, tried: &Tried, wanted: impl Fn(Call) -> bool) -> Vec<String> {
    let views = stage.views(row, Reader::Plyfs);
    let (calls, _) = stage.calls(row);
    let mut wrong = Vec::new();
    for (at, &call) in calls.iter().enumerate().filter(|(at, call)| wanted(**call) && is_walked(row, *at, 6)) {
        let owners = stage.has_marks();
        // To look at an object that has a mark takes two calls more.
        let last = calls[at + 1..].iter().filter(|later| **later == call).count() < if owners { 3 } else { 2 };
        let faults = faults(row, at, call);
        tried.pair(faults.len());
        for fault in faults {
            let at = At { row, call, at, fault, last, owners };
            let why = fault_at(stage, &views, &at).err();
            wrong.extend(why.map(|why| format!("call {} ({call:?}) {fault:?}, {why}", at.at)));
        }
    }
    wrong
}

/// What is done to this call.
fn faults(row: &Row, at: usize, call: Call) -> Vec<Fault> {
    let all = takes_its_time();
    // The same from run to run; all of them come in turn.
    let turn = at + row.name.len();
    let others = OTHERS.iter().enumerate().filter(|(number, _)| all || turn % OTHERS.len() == *number);
    let mut faults: Vec<_> = ALWAYS.iter().chain(others.map(|(_, errno)| errno)).map(|e| Fault::Fails(*e)).collect();
    if row.crossed && !all {
        faults.remove(turn % ALWAYS.len());
    }
    if matches!(call, Call::Pread | Call::Pwrite | Call::CopyRange) {
        faults.extend([Part::Byte, Part::Half].map(|part| Fault::Moves(part, None)));
        faults.push(Fault::Moves(Part::Byte, Some(Errno::ENOSPC)));
        if call != Call::Pread {
            faults.push(Fault::Moves(Part::Nothing, None));
        }
    }
    faults
}

fn says(what: &'static str) -> impl Fn(Errno) -> String {
    move |errno| format!("{what}: {errno:?}")
}

fn fault_at(stage: &Stage, views: &Views, at: &At<'_>) -> Result<(), String> {
    tried_at_once(&stage.layers(), views, at)?;
    stage.has_nothing_open()?;
    let again = if at.row.crossed { takes_its_time() } else { true };
    let always = ALWAYS.iter().any(|errno| at.fault == Fault::Fails(*errno));
    if again && always { tried_after_a_remount(&stage.layers(), views, at) } else { Ok(()) }
}

/// The view is the one of before, or of after where that was done; returns it.
fn shows(seen: View, done: bool, views: &Views, at: &At<'_>, when: &str) -> Result<View, String> {
    let expected = if done { &views.after } else { &views.before };
    let close = at.miscounts() && seen.is_close(expected);
    let parted = at.parts_names() && when != "live" && seen.is_blend(&views.before, &views.after);
    if &seen == expected || close || parted || is_middle(&seen, views, at) {
        Ok(seen)
    } else {
        Err(format!("{when}:{}", seen.difference(expected)))
    }
}

/// Whether the first of two steps is done, and the second has failed.
fn is_middle(seen: &View, views: &Views, at: &At<'_>) -> bool {
    matches!(at.call, Call::Rename | Call::Utimens) && views.middle.as_ref() == Some(seen)
}

/// Nothing has changed, nothing is left, the next operation works, and so does the same one.
fn tried_at_once(layers: &Layers<'_>, views: &Views, at: &At<'_>) -> Result<(), String> {
    let engine = layers.before(at.row);
    let (answer, _) = with_plan(at.plan(), || at.row.act(&engine));
    at.check_answer(&answer, views)?;
    let live = engine.view().map_err(says("view"))?;
    let done = answer.is_ok() || (at.is_of_the_answer() && live == views.after);
    let live = shows(live, done, views, at, "live").map_err(|why| format!("{answer:?}, {why}"))?;
    engine.forget_all();
    if !at.may_litter(&answer) {
        layers.is_clean()?;
    }
    match engine.0.live_inodes() {
        1 => {}
        _ if at.parts_names() => {}
        live => return Err(format!("{answer:?}, {live} inodes live on")),
    }
    let probe = engine.create("probe").and_then(|()| engine.write("probe", 0, "new"));
    probe.and_then(|()| engine.unlink("probe")).map_err(says("the next operation"))?;
    engine.forget_all();
    if !at.parts_names() {
        layers.is_clean().map_err(|why| format!("after the next operation, {why}"))?;
    }
    if is_middle(&live, views, at) {
        return Ok(());
    }
    if !done {
        at.row.act(&engine).map_err(says("again at once"))?;
        shows(engine.view().map_err(says("view"))?, true, views, at, "tried again at once")?;
    }
    drop(engine);
    let seen = shows(layers.read(Reader::Plyfs)?, true, views, at, "opened again")?;
    layers.is_tidy()?;
    index_is_tidy(layers, &seen)
}

/// What failed is as before after a remount, too, and works then.
fn tried_after_a_remount(layers: &Layers<'_>, views: &Views, at: &At<'_>) -> Result<(), String> {
    let engine = layers.before(at.row);
    let (answer, _) = with_plan(at.plan(), || at.row.act(&engine));
    drop(engine);
    let seen = layers.read(Reader::Plyfs)?;
    let done = answer.is_ok() || (at.is_of_the_answer() && seen == views.after);
    let seen = shows(seen, done, views, at, "after a remount").map_err(|why| format!("{answer:?}, {why}"))?;
    layers.is_tidy()?;
    index_is_tidy(layers, &seen)?;
    if done || is_middle(&seen, views, at) {
        return Ok(());
    }
    let engine = layers.open();
    at.row.act(&engine).map_err(says("again after a remount"))?;
    shows(engine.view().map_err(says("view"))?, true, views, at, "tried again after a remount").map(drop)
}

#[test]
fn an_error_of_any_call_leaves_what_the_answer_says() {
    for_all_rows("failing", Fsync::Auto, fail_everywhere);
}

#[test]
fn an_error_of_any_call_leaves_what_the_answer_says_where_owners_are_marks() {
    let owners = (Lacks::default(), Some(XattrPermissions::Containers));
    for_all_rows_over("failing, owners are marks", owners, Fsync::Auto, |stage, row, tried| {
        if row.crossed { Vec::new() } else { fail_everywhere(stage, row, tried) }
    });
}

/// A name that could not be synced is there all the same, and known to be there.
#[test]
fn an_error_of_any_call_leaves_what_the_answer_says_where_all_is_synced() {
    for_all_rows("failing, with fsync=strict", Fsync::Strict, |stage, row, tried| {
        if row.crossed { Vec::new() } else { fail_where(stage, row, tried, |call| call == Call::Fsync) }
    });
}

/// Where the upper layer's file system lacks this, more steps are taken; an error of any leaves the same.
fn fail_without(what: &str, lacks: Lacks) {
    for_all_rows_without(&format!("failing, without {what}"), lacks, Fsync::Auto, |stage, row, tried| {
        // Without marks the names of a lower hard link part, which is no fault.
        let parts = lacks.marks && ["link", "indexed"].iter().any(|word| row.name.contains(word));
        if !parts && stage.allows(row) { fail_everywhere(stage, row, tried) } else { Vec::new() }
    });
}

#[test]
fn an_error_of_any_call_leaves_what_the_answer_says_without_flags_of_rename() {
    fail_without("flags of rename", Lacks { rename_flags: true, ..Lacks::default() });
}

#[test]
fn an_error_of_any_call_leaves_what_the_answer_says_without_flags_of_rename_and_devices() {
    fail_without("flags of rename and devices", Lacks { rename_flags: true, devices: true, ..Lacks::default() });
}

#[test]
fn an_error_of_any_call_leaves_what_the_answer_says_without_flags_of_rename_devices_and_marks() {
    let lacks = Lacks { rename_flags: true, devices: true, marks: true, ..Lacks::default() };
    fail_without("flags of rename, devices and marks", lacks);
}
