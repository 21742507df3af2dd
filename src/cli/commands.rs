//! The forms of the command line, and what each does.

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use super::daemon::{self, Console, Report};
use super::describe::describe;
use super::grammar::{self, Word};
use super::help;
use super::report::Failure;
use super::resolve::{self, Abilities, Resolved};
use super::show;
use super::supervise;
use crate::base::{Errno, panics};
use crate::fuse::Adapter;
use crate::fuse::guard::Guard;
use crate::fuse::reattach::Successive;
use crate::fuse::session;
use crate::sys::{newer, process};
use crate::union::{Rivals, Union};

/// What a command line asks for.
#[derive(Debug, PartialEq, Eq)]
enum Command {
    Help,
    Version,
    Mount(Mount),
    /// `plyfs show DIR`: what a mounted view is.
    Show {
        at: OsString,
        json: bool,
    },
    /// `plyfs complete -o …`: files of the upper layer that arrive by blocks get all their data.
    Complete(Vec<Word>),
}

/// `plyfs … MERGED`
#[derive(Debug, Default, PartialEq, Eq)]
struct Mount {
    source: Option<OsString>,
    merged: OsString,
    words: Vec<Word>,
    foreground: bool,
    debug: bool,
    /// `-s` of mount(8).
    sloppy: bool,
    /// `-f` of mount(8): do everything but the mount.
    fake: bool,
    /// `-N` of mount(8).
    namespace: Option<OsString>,
    supervise: bool,
}

/// Runs the command line `args` (with the program's name); its exit status.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    process::heed_children();
    let done = newer::check().map_err(no_such_word).and_then(|()| parse(args)).and_then(|command| match command {
        Command::Help => print(&help::text()),
        Command::Version => print(&help::version()),
        Command::Show { at, json } => show::show(Path::new(&at), json).and_then(|text| print(&text)),
        Command::Mount(mount) => self::mount(mount),
        Command::Complete(words) => complete(&words),
    });
    daemon::finish(done)
}

fn no_such_word(word: &str) -> Failure {
    Failure::usage(newer::VARIABLE, format!("{word} is not known"), "docs/kernels.md has the words; all is one")
}

fn print(text: &str) -> Result<(), Failure> {
    match std::io::stdout().write_all(text.as_bytes()) {
        // Whoever read the first lines only has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|error| Failure::refused("standard output", Errno::from(error).to_string(), "")),
    }
}

fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, Failure> {
    let mut args = args.into_iter();
    // mount(8) runs /sbin/mount.TYPE, where -f has another meaning.
    let program = args.next().unwrap_or_default();
    let for_mount8 = Path::new(&program).file_name().is_some_and(|name| name.as_bytes().starts_with(b"mount."));
    let mut mount = Mount::default();
    let mut places: Vec<OsString> = Vec::new();
    let mut first = true;
    let mut complete = false;
    let (mut show, mut json) = (false, false);
    while let Some(arg) = args.next() {
        let is_first = std::mem::take(&mut first);
        match arg.as_bytes() {
            b"mount" if is_first && !for_mount8 => {}
            b"complete" if is_first && !for_mount8 => complete = true,
            b"show" if is_first && !for_mount8 => show = true,
            b"--json" if show => json = true,
            b"--" => places.extend(args.by_ref()),
            b"--help" => return Ok(Command::Help),
            b"--version" => return Ok(Command::Version),
            b"--debug" => mount.debug = true,
            b"--foreground" => mount.foreground = true,
            b"--supervise" => mount.supervise = true,
            [b'-', b'-', ..] => return Err(unknown_flag(&arg)),
            [b'-', letters @ ..] if !letters.is_empty() => {
                if let Some(command) = short(&mut mount, letters, &mut args, for_mount8)? {
                    return Ok(command);
                }
            }
            _ => places.push(arg),
        }
    }
    if complete {
        return match places.first() {
            None => Ok(Command::Complete(mount.words)),
            Some(extra) => Err(Failure::usage(extra.to_string_lossy(), "one word too many: complete -o OPTIONS", HELP)),
        };
    }
    if show {
        let [at] = <[OsString; 1]>::try_from(places)
            .map_err(|_| Failure::usage("show", "names one directory: show MOUNTPOINT [--json]", HELP))?;
        return Ok(Command::Show { at, json });
    }
    let mut places = places.into_iter();
    (mount.source, mount.merged) = match (places.next(), places.next(), places.next()) {
        (Some(merged), None, _) => (None, merged),
        (Some(source), Some(merged), None) => (Some(source), merged),
        (None, ..) => return Err(Failure::usage("MERGED", "no directory to mount on is given", HELP)),
        (.., Some(extra)) => {
            return Err(Failure::usage(
                extra.to_string_lossy(),
                "one word too many: [SOURCE] MERGED and options",
                HELP,
            ));
        }
    };
    Ok(Command::Mount(mount))
}

const HELP: &str = "plyfs -o lowerdir=TOP:…:BOTTOM[,upperdir=DIR,workdir=DIR] MERGED, or plyfs --help";

fn unknown_flag(flag: &OsStr) -> Failure {
    Failure::usage(flag.to_string_lossy(), "unknown flag", "plyfs --help lists all")
}

/// The letters behind one `-`; the last may take what follows it, or the next argument.
fn short(
    mount: &mut Mount,
    letters: &[u8],
    args: &mut impl Iterator<Item = OsString>,
    for_mount8: bool,
) -> Result<Option<Command>, Failure> {
    for (at, &letter) in letters.iter().enumerate() {
        match letter {
            b'f' if for_mount8 => mount.fake = true,
            b'f' => mount.foreground = true,
            b'd' => mount.debug = true,
            b's' => mount.sloppy = true,
            b'n' | b'v' => {}
            b'h' => return Ok(Some(Command::Help)),
            b'V' => return Ok(Some(Command::Version)),
            b'o' | b't' | b'N' => {
                let value = match letters.get(at + 1..) {
                    None | Some([]) => args.next().map(OsString::into_vec),
                    Some(rest) => Some(rest.to_vec()),
                };
                let flag = format!("-{}", char::from(letter));
                let value =
                    value.ok_or_else(|| Failure::usage(flag, "a value is missing", "plyfs --help lists all"))?;
                match letter {
                    b'o' => mount.words.append(&mut grammar::split_options(&value)),
                    b'N' => mount.namespace = Some(OsString::from_vec(value)),
                    // The type by which mount(8) found this program.
                    _ => {}
                }
                return Ok(None);
            }
            other => return Err(unknown_flag(OsStr::new(&format!("-{}", char::from(other))))),
        }
    }
    Ok(None)
}

fn mount(command: Mount) -> Result<(), Failure> {
    if let Some(namespace) = &command.namespace {
        process::enter_mount_namespace(Path::new(namespace))
            .map_err(|errno| Failure::refused(format!("-N {}", namespace.to_string_lossy()), errno.to_string(), ""))?;
    }
    let abilities =
        Abilities { mounts_directly: session::mounts_directly(), ids_are_initial: process::ids_are_initial() };
    let merged = Path::new(&command.merged);
    // The words first: what is wrong with them is true whatever the directories look like.
    let mut resolved = resolve::resolve(&command.words, command.source.as_deref(), merged, command.sloppy, abilities)?;
    let mountpoint = std::fs::canonicalize(merged).map_err(|error| no_mountpoint(merged, error.into()))?;
    resolved.mount.mountpoint.clone_from(&mountpoint);
    if command.fake {
        return Ok(());
    }
    let debug = command.debug || resolved.debug;
    start_log(debug);
    let supervise = command.supervise || resolved.supervise;
    if supervise && resolved.mount.data.opens_seen {
        let reason = "what is open is not known to a daemon that is started again";
        return Err(Failure::usage("supervise", reason, "use io=stateless, and not copyup=open"));
    }
    let serve = |report: &mut dyn Report| match supervise {
        true => supervise::run(&resolved, report),
        false => serve(&resolved, None, report),
    };
    if debug || command.foreground { serve(&mut Console::default()) } else { daemon::in_background(&mountpoint, serve) }
}

fn complete(words: &[Word]) -> Result<(), Failure> {
    let abilities = Abilities { mounts_directly: process::is_admin(), ids_are_initial: process::ids_are_initial() };
    let resolved = resolve::resolve(words, None, Path::new("/"), false, abilities)?;
    start_log(resolved.debug);
    let union = Union::open(resolved.config)?;
    let done = union.complete_all().map_err(|errno| Failure::refused("complete", errno.to_string(), "upperdir=DIR"))?;
    match done.failed {
        0 => print(&format!("{} files completed\n", done.done)),
        failed => {
            let reason = format!("{failed} files or directories of {} are not", failed + done.done);
            Err(Failure::refused("complete", reason, "the lines above say why"))
        }
    }
}

fn no_mountpoint(merged: &Path, errno: Errno) -> Failure {
    let hint = match errno.raw() {
        libc::ENOENT => format!("mkdir {}", merged.display()),
        libc::ENOTCONN | libc::ECONNABORTED => {
            format!("a mount whose daemon died is in the way: fusermount3 -u {}", merged.display())
        }
        _ => "the mountpoint is an existing directory".to_owned(),
    };
    Failure::refused(merged.display().to_string(), errno.to_string(), hint)
}

/// Standard error, as `RUST_LOG` says; nobody hears it in the background.
fn start_log(debug: bool) {
    let level = if debug { "debug" } else { "warn" };
    let log = env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(level)).build();
    log::set_max_level(log.filter());
    // Only once in a process: there is no other log.
    let _ = log::set_boxed_logger(Box::new(Log(log)));
    panics::record();
}

/// The log, in which a panic stands once.
struct Log(env_logger::Logger);

impl log::Log for Log {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        self.0.enabled(metadata)
    }

    fn log(&self, record: &log::Record<'_>) {
        if !panics::is_echo(record) {
            self.0.log(record);
        }
    }

    fn flush(&self) {
        self.0.flush();
    }
}

/// So many descriptors are expected at most; the table takes 8 bytes for each.
const MOST_DESCRIPTORS: usize = 1 << 14;

/// Serves the view to its end, in this process. `successive`: it is one of several that do.
pub(super) fn serve(
    resolved: &Resolved,
    successive: Option<Successive>,
    report: &mut dyn Report,
) -> Result<(), Failure> {
    process::block_endings();
    process::clear_umask();
    process::raise_open_files();
    process::reserve_descriptors(MOST_DESCRIPTORS);
    process::return_large_memory();
    if successive.as_ref().is_none_or(|one| one.connection.is_none()) {
        // Before any layer is touched.
        session::preflight(&resolved.mount)?;
    }
    open_and_serve(resolved, successive, report)
}

/// The one place where the engine, the adapter and the mount come together.
fn open_and_serve(resolved: &Resolved, successive: Option<Successive>, report: &mut dyn Report) -> Result<(), Failure> {
    // While there is one thread.
    let (config, mut mount) = (resolved.config.clone(), resolved.mount.clone());
    let guard = if mount.reads_ahead() && successive.is_none() { Guard::start() } else { Err(Errno::ENODEV) };
    let rivals = Rivals::of(&config);
    // The next of several daemons goes on with what is mounted, whatever stands beside it.
    let notes =
        if successive.as_ref().is_none_or(|one| one.connection.is_none()) { rivals.check()? } else { Vec::new() };
    let union = Arc::new(Union::open_with(config, successive.as_ref().map(|one| one.journal.clone()))?);
    for note in notes.iter().chain(union.notes()) {
        report.note(note);
    }
    mount.flags.ro |= !union.is_writable();
    let failed = |error: std::io::Error| Failure::refused("a thread", error.to_string(), "");
    let _tender = union.tend().map_err(failed)?;
    if union.is_writable() {
        rivals.watch().map_err(failed)?;
    }
    let described = describe(resolved, &mount, &union, &notes);
    session::serve(Adapter::new(union, mount.data, described), (&mount, guard.ok()), successive, || report.up())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, Failure> {
        parse(line.split(' ').filter(|word| !word.is_empty()).map(OsString::from))
    }

    fn mounted(line: &str) -> Mount {
        match parsed(line) {
            Ok(Command::Mount(mount)) => mount,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn each_form_of_the_command_means_the_same_mount() {
        let plain = mounted("plyfs -o lowerdir=/l,ro /m");
        assert_eq!((plain.source.as_deref(), &*plain.merged), (None, OsStr::new("/m")));
        for line in [
            "plyfs mount -o lowerdir=/l,ro /m",
            "plyfs /m -o lowerdir=/l,ro",
            "plyfs -olowerdir=/l -o ro /m",
            "plyfs -o lowerdir=/l -n -v -t fuse.plyfs /m -o ro",
            "plyfs -o lowerdir=/l,ro -- /m",
            "/sbin/mount.plyfs -o lowerdir=/l,ro /m",
        ] {
            assert_eq!(mounted(line), plain, "{line}");
        }
        let helper = mounted("plyfs overlay /m -o lowerdir=/l,ro");
        assert_eq!(helper, Mount { source: Some("overlay".into()), ..mounted("plyfs -o lowerdir=/l,ro /m") });
    }

    #[test]
    fn flags_may_stand_alone_or_together() {
        let mount = mounted("plyfs -fds -N /proc/1/ns/mnt /m");
        assert!(mount.foreground && mount.debug && mount.sloppy && !mount.fake);
        assert_eq!(mount.namespace.as_deref(), Some(OsStr::new("/proc/1/ns/mnt")));
        assert!(mounted("/sbin/mount.fuse.plyfs -f s /m").fake);
        for (line, command) in [
            ("plyfs -V", Command::Version),
            ("plyfs --version", Command::Version),
            ("plyfs -h", Command::Help),
            ("plyfs mount --help /m", Command::Help),
        ] {
            assert_eq!(parsed(line), Ok(command), "{line}");
        }
    }

    #[test]
    fn a_command_that_makes_no_sense_is_answered_with_status_2() {
        for line in ["plyfs", "plyfs -o", "plyfs -o ro", "plyfs -x /m", "plyfs --what /m", "plyfs a b c", "plyfs mount"]
        {
            let failure = parsed(line).unwrap_err();
            assert_eq!(failure.status, Failure::USAGE, "{line}");
            assert!(!failure.hint.is_empty(), "{line}");
        }
    }
}
