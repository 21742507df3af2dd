//! A load of programs, and a kill of the daemon in the midst of it, again and again on one upper layer.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::common::mount::wait_until;
use crate::common::{Scratch, Stack, View, env_number, view};

/// A program that runs on a mount, and how to tell afterwards whether all is there.
pub trait Program {
    /// The processes of the load on the files below `root`. They go on with the commits after `from`, and write the number
    /// of the last that was acknowledged to the file `acked`.
    fn load(&mut self, root: &Path, acked: &Path, from: u64) -> Vec<Command>;
    /// Checks the files below `root`; the number of the last commit that is there.
    fn check(&mut self, root: &Path) -> Result<u64, String>;
}

/// How often the daemon is killed.
pub fn kills() -> u64 {
    env_number("PLYFS_PROGRAM_KILLS", 3)
}

/// The number that a program has written; 0 before the first.
fn number(acked: &Path) -> u64 {
    std::fs::read_to_string(acked).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// Runs the load on the stack and kills the daemon in its midst, [`kills`] times; fails where the check does, where an
/// acknowledged commit is not there, or where a lower layer has changed.
pub fn survives(stack: &Stack, program: &mut dyn Program) {
    let outside = Scratch::new();
    let (acked, before) = (outside.path().join("acked"), view::layer(stack.lowers[0].root()));
    let (mut from, mut wrong) = (0, Vec::new());
    for kill in 1..=kills() {
        let _ = std::fs::remove_file(&acked);
        load_and_kill(stack, program, (&acked, from), &mut wrong);
        let mut mount = stack.mount();
        match program.check(mount.root()) {
            Err(why) => wrong.push(format!("after kill {kill}: {why}")),
            Ok(there) if there < number(&acked).max(from) => {
                wrong.push(format!("after kill {kill}: {} was acknowledged, {there} is there", number(&acked)));
            }
            Ok(there) => from = there,
        }
        mount.unmount();
        if wrong.len() as u64 >= kills() {
            break;
        }
    }
    println!("{} kills, {from} commits acknowledged and there", kills());
    let after: View = view::layer(stack.lowers[0].root());
    wrong.extend(after.difference(&before).map(|difference| format!("a lower layer was changed:\n{difference}")));
    assert!(wrong.is_empty(), "{} of {} kills:\n{}", wrong.len(), kills(), wrong.join("\n"));
}

fn load_and_kill(stack: &Stack, program: &mut dyn Program, (acked, from): (&Path, u64), wrong: &mut Vec<String>) {
    let mut mount = stack.mount();
    let commands = program.load(mount.root(), acked, from);
    let start = |mut command: Command| command.process_group(0).spawn().unwrap();
    let mut running: Vec<Child> = commands.into_iter().map(start).collect();
    wait_until(|| number(acked) > from || running.iter_mut().any(|child| child.try_wait().unwrap().is_some()));
    let mut chance = [0; 2];
    rustix::rand::getrandom(&mut chance, rustix::rand::GetRandomFlags::empty()).unwrap();
    sleep(Duration::from_millis(u64::from(u16::from_le_bytes(chance)) % 500));
    for child in &mut running {
        if let Some(status) = child.try_wait().unwrap() {
            let said = std::fs::read_to_string(acked.with_extension("said")).unwrap_or_default();
            wrong.push(format!("the load ended before the kill: {status}: {said:.2000}"));
        }
    }
    kill_process(mount.pid().unwrap(), Signal::KILL).unwrap();
    // They meet the dead mount and end; not git pack-objects, which then looks for its packs for good.
    let deadline = Instant::now() + Duration::from_secs(1);
    for child in &mut running {
        while Instant::now() < deadline && child.try_wait().unwrap().is_none() {
            sleep(Duration::from_millis(10));
        }
        let _ = kill_process_group(Pid::from_child(child), Signal::KILL);
        child.wait().unwrap();
    }
    mount.unmount();
}

/// A shell script with arguments, quiet.
pub fn script(text: &str, args: &[&Path]) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", text, "sh"]).args(args);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// What a program says; the error has all of it.
pub fn says(command: &mut Command) -> Result<String, String> {
    let Output { status, stdout, stderr } = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if status.success() {
        return Ok(text(&stdout));
    }
    let said = format!("{}\n{}", text(&stdout), text(&stderr));
    Err(format!("{command:?}: {status}\n{said:.2000}"))
}

/// Whether the program is on the PATH.
pub fn is_here(program: &str) -> bool {
    find(program).is_some()
}

/// Where it is: on the PATH, or where Debian puts the programs of PostgreSQL.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let debian = debian.map(|version| version.path().join("bin"));
    std::env::split_paths(&path).chain(debian).map(|dir| dir.join(program)).find(|at| at.is_file())
}
