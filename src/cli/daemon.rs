//! In the background: the command returns once the view answers, and leaves nothing of its caller's open.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::process::ExitCode;
use std::sync::OnceLock;

use rustix::process::Pid;

use super::report::{Failure, Status, one_line};
use crate::base::Errno;
use crate::sys::inherited;
use crate::sys::process::{self, Fork};

/// What the process that serves tells the process that was called.
pub trait Report {
    /// Something works less well than it could.
    fn note(&mut self, line: &str);
    /// The view is mounted.
    fn up(&mut self);
    /// From now on a process that this one has started does the telling.
    fn leave(&mut self);
    /// The view has ended; returns the exit status.
    fn end(&mut self, done: Result<(), Failure>) -> u8;
}

/// Tells it on standard error, in the foreground. Notes wait until the view is up, so that a failure is one line.
#[derive(Debug)]
pub struct Console {
    notes: Vec<String>,
    for_mount8: bool,
}

/// The caller's standard error, once this process's own is the log's file.
static CALLERS: OnceLock<File> = OnceLock::new();

/// Makes standard error the log's file, in the foreground. Messages to the caller still go to the caller's.
///
/// # Errors
/// `EMFILE`
pub fn log_to(file: &File) -> Result<(), Failure> {
    let callers = std::io::stderr().as_fd().try_clone_to_owned().map_err(Errno::from).and_then(|callers| {
        process::stderr_to(file.as_fd())?;
        Ok(callers)
    });
    let callers = callers.map_err(|errno| Failure::system("log", errno.to_string(), ""))?;
    let _ = CALLERS.set(File::from(callers));
    Ok(())
}

/// Tells the caller. That nobody reads any more is no reason to end.
pub fn say(line: &str) {
    let text = format!("plyfs: {line}\n");
    let _ = match CALLERS.get() {
        Some(mut stderr) => stderr.write_all(text.as_bytes()),
        None => std::io::stderr().write_all(text.as_bytes()),
    };
}

impl Console {
    /// One without notes; `for_mount8`: its exit statuses are those of a helper of mount(8).
    pub fn new(for_mount8: bool) -> Self {
        Self { notes: Vec::new(), for_mount8 }
    }
}

impl Report for Console {
    fn note(&mut self, line: &str) {
        self.notes.push(one_line(line));
    }

    fn up(&mut self) {
        for note in self.notes.drain(..) {
            say(&format!("note: {note}"));
        }
    }

    fn leave(&mut self) {}

    fn end(&mut self, done: Result<(), Failure>) -> u8 {
        let Err(failure) = done else { return 0 };
        say(&failure.to_string());
        failure.status.number(self.for_mount8)
    }
}

/// Tells it to the process that waits in [`in_background`]: one line for each message, whose first letter says what it is.
#[derive(Debug)]
struct Messenger(Option<File>);

const NOTE: &str = "n";
const UP: &str = "u";
const FAILED: &str = "f";

impl Messenger {
    fn send(&mut self, kind: &str, line: &str) {
        if let Some(pipe) = &mut self.0 {
            // The one who waits may have been killed; the view is served all the same.
            let _ = pipe.write_all(format!("{kind}{}\n", one_line(line)).as_bytes());
        }
    }
}

impl Report for Messenger {
    fn note(&mut self, line: &str) {
        self.send(NOTE, line);
    }

    fn up(&mut self) {
        self.send(UP, "");
        self.0 = None;
    }

    fn leave(&mut self) {
        self.0 = None;
    }

    fn end(&mut self, done: Result<(), Failure>) -> u8 {
        let Err(failure) = done else { return 0 };
        match &self.0 {
            Some(_) => self.send(FAILED, &encode(&failure)),
            None => log::error!("{failure}"),
        }
        failure.status.number(false)
    }
}

/// What standard error is in the background.
#[derive(Debug)]
pub enum Stderr {
    /// That of the caller.
    Kept,
    /// A file.
    File(File),
    /// Nothing.
    Null,
}

/// Runs `serve` in a process of its own and returns once it reports that the view is up and `mountpoint` answers.
/// Must be called before there is a second thread. In the new process it does not return. `given`: the connection that the
/// caller has mounted.
///
/// # Errors
/// The failure of `serve` before the view was up; no process could be made.
pub fn in_background(
    (mountpoint, given): (&Path, Option<BorrowedFd<'_>>),
    stderr: Stderr,
    serve: impl FnOnce(&mut dyn Report) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let (hear, tell) = process::pipe().map_err(|errno| no_process("pipe(2)", errno))?;
    match process::fork().map_err(|errno| no_process("fork(2)", errno))? {
        Fork::Parent(child) => {
            drop(tell);
            // What the caller has mounted itself is served wherever that may be.
            wait_until_up(mountpoint, given.is_none(), (File::from(hear), child))
        }
        Fork::Child => {
            drop(hear);
            let kept: Vec<_> = given.into_iter().chain([tell.as_fd()]).collect();
            let prepared = prepare(&kept, stderr);
            let mut messenger = Messenger(Some(File::from(tell)));
            let served = prepared
                .map_err(|errno| no_process("the background process", errno))
                .and_then(|()| serve(&mut messenger));
            std::process::exit(i32::from(messenger.end(served)))
        }
    }
}

/// Detaches the new process from its caller: descriptors, session, directory.
fn prepare(keep: &[BorrowedFd<'_>], stderr: Stderr) -> Result<(), Errno> {
    let keeps_stderr = !matches!(stderr, Stderr::Null);
    if let Stderr::File(file) = stderr {
        process::stderr_to(file.as_fd())?;
    }
    inherited::close_inherited(keep)?;
    process::detach(keeps_stderr)
}

fn no_process(what: &str, errno: Errno) -> Failure {
    Failure::system(what, errno.to_string(), "-f stays in the foreground")
}

/// Listens to the background process until it is up or has failed.
fn wait_until_up(mountpoint: &Path, is_there: bool, (mut pipe, child): (File, Pid)) -> Result<(), Failure> {
    let mut heard = String::new();
    // What a broken-off line lacks is said below.
    let _ = pipe.read_to_string(&mut heard);
    let mut console = Console::new(false);
    for line in heard.lines() {
        if let Some(note) = line.strip_prefix(NOTE) {
            console.note(note);
        } else if let Some(failure) = line.strip_prefix(FAILED) {
            return Err(decode(failure));
        } else if line.starts_with(UP) {
            if is_there {
                answers(mountpoint)?;
            }
            console.up();
            return Ok(());
        }
    }
    let how = match process::wait_for(child) {
        Ok(Some(status)) => format!("it ended with status {status}"),
        _ => "a signal ended it".to_owned(),
    };
    let reason = format!("the background process did not get as far as mounting: {how}");
    Err(Failure::refused(mountpoint.display().to_string(), reason, "-d shows what happens"))
}

/// Asks the new view something that only the daemon can answer.
fn answers(mountpoint: &Path) -> Result<(), Failure> {
    rustix::fs::statfs(mountpoint).map(drop).map_err(|errno| {
        let reason = format!("mounted, and does not answer: {}", Errno::from(errno));
        Failure::refused(mountpoint.display().to_string(), reason, "-d shows what happens")
    })
}

/// In the order of their numbers on the pipe.
const STATUSES: [Status; 3] = [Status::Refused, Status::Usage, Status::System];

/// A failure in one line: the status, then its three texts between unit separators.
fn encode(failure: &Failure) -> String {
    let status = STATUSES.iter().position(|status| *status == failure.status).unwrap_or_default();
    [&status.to_string(), &failure.what, &failure.reason, &failure.hint].map(|text| one_line(text)).join("\u{2063}")
}

fn decode(line: &str) -> Failure {
    let mut parts = line.splitn(4, '\u{2063}').map(str::to_owned);
    let status = parts.next().and_then(|status| STATUSES.get(status.parse::<usize>().ok()?).copied());
    let mut text = || parts.next().unwrap_or_default();
    Failure { what: text(), reason: text(), hint: text(), status: status.unwrap_or(Failure::REFUSED) }
}

/// The exit status and the one line of a command's end.
pub fn finish(result: Result<(), Failure>, for_mount8: bool) -> ExitCode {
    ExitCode::from(Console::new(for_mount8).end(result))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_arrives_as_it_was_sent() {
        for failure in
            [Failure::refused("/a", "b: c", "d"), Failure::usage("/a", "b", ""), Failure::system("x", "y", "")]
        {
            assert_eq!(decode(&encode(&failure)), failure);
        }
        assert_eq!(decode("").status, Failure::REFUSED);
    }
}
