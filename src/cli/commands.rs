//! The forms of the command line, and what each does.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use super::daemon::{self, Console, Report, Stderr};
use super::describe::describe;
use super::grammar::Word;
use super::help;
use super::line::{self, Command, Mount};
use super::log;
use super::remount;
use super::report::{self, Failure};
use super::resolve::{self, Abilities, Manner, Resolved};
use super::show;
use super::supervise;
use super::umount;
use super::work;
use crate::base::Errno;
use crate::fuse::serve::auto_unmount;
use crate::fuse::serve::reattach::Successive;
use crate::fuse::serve::session;
use crate::fuse::{Adapter, Guard};
use crate::sys::{inherited, newer, process};
use crate::union::{Rivals, Union};

/// Runs the command line `args` (with the program's name); its exit status.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    process::heed_children();
    process::outlive_file_limits();
    let mut args = args.into_iter().peekable();
    let for_mount8 = args.peek().is_some_and(|program| line::is_for_mount8(program));
    if args.peek().is_some_and(|program| line::is_fuse_overlayfs(program)) {
        // By the other name it would be taken for a fuse-overlayfs, which holds no lock (see `union/rivals.rs`).
        process::set_name("plyfs");
    }
    // Commands such as `diff --exit-code` have more to say than that they are done.
    let mut ended = 0;
    let parsed = newer::check().map_err(no_such_word).and_then(|()| line::parse(args));
    let done = parsed.and_then(|command| match command {
        Command::Work(args) => work::run(args).map(|status| ended = status),
        Command::HelpWork(text) => print(&text),
        Command::Help(verb) => print(&verb.map_or_else(help::text, help::of)),
        Command::HelpAll => print(&help::all()),
        Command::Version { in_place } => print(&help::version(in_place)),
        Command::Show { at, json } => show::show(Path::new(&at), json).and_then(|text| print(&text)),
        Command::Umount { at, lazy } => umount::umount(Path::new(&at), lazy),
        Command::Mount(mount) => self::mount(mount, for_mount8),
        Command::Complete { words, debug } => complete(&words, debug),
    });
    match ended {
        0 => daemon::finish(done, for_mount8),
        status => ExitCode::from(status),
    }
}

fn no_such_word(word: &str) -> Failure {
    Failure::usage(newer::VARIABLE, format!("{word} is not known"), "docs/kernels.md has the words; all is one")
}

/// Writes to standard output.
///
/// # Errors
/// What the system says, but for a reader that has gone.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    print_bytes(text.as_bytes())
}

/// As [`print`], of what may be no text.
///
/// # Errors
/// As [`print`].
pub(super) fn print_bytes(bytes: &[u8]) -> Result<(), Failure> {
    match std::io::stdout().write_all(bytes) {
        // Whoever read the first lines only has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|error| Failure::refused("standard output", Errno::from(error).to_string(), "")),
    }
}

fn mount(command: Mount, for_mount8: bool) -> Result<(), Failure> {
    if let Some(namespace) = &command.namespace {
        process::enter_mount_namespace(Path::new(namespace))
            .map_err(|errno| Failure::refused(format!("-N {}", namespace.to_string_lossy()), errno.to_string(), ""))?;
    }
    let abilities =
        Abilities { mounts_directly: session::mounts_directly(), ids_are_initial: process::ids_are_initial() };
    let merged = Path::new(&command.merged);
    if command.words.iter().any(|word| word.key == "remount") {
        return remount::remount(&command, abilities);
    }
    // The words come first: an error in them is one whatever the directories look like.
    let mut resolved =
        resolve::resolve(&command.words, command.source.as_deref(), merged, (&command).into(), abilities)?;
    for word in &resolved.unknown {
        // To the letter as fuse-overlayfs says it: its callers know the words.
        eprintln!("unknown argument ignored: {}", report::one_line(word));
    }
    match inherited::number_in(merged) {
        Some(number) => take_given(&mut resolved, number, abilities)?,
        None => resolved.mount.mountpoint = mountpoint(merged)?,
    }
    if command.fake {
        return Ok(());
    }
    let debug = command.debug || resolved.debug;
    let foreground = debug || command.foreground;
    let supervise = command.supervise || resolved.supervise;
    if supervise && resolved.mount.data.opens_seen {
        let reason = "what is open is not known to a daemon that is started again";
        return Err(Failure::usage("supervise", reason, "use io=stateless, and not copyup=open"));
    }
    let file = log::begin(&mut resolved, foreground, debug)?;
    let serve = |report: &mut dyn Report| match supervise {
        true => supervise::run(&resolved, report),
        false => serve(&resolved, None, report),
    };
    if !foreground {
        let stderr = match file {
            Some(file) => Stderr::File(file),
            None if resolved.log == Some(log::To::Stderr) => Stderr::Kept,
            None => Stderr::Null,
        };
        return daemon::in_background((&resolved.mount.mountpoint, resolved.mount.given()), stderr, serve);
    }
    file.as_ref().map_or(Ok(()), daemon::log_to)?;
    serve(&mut Console::new(for_mount8))
}

/// The connection of a mount that the caller has made. Its flags are the caller's, too; `ro` alone can be had without them:
/// the upper layer is the topmost lower one then.
fn take_given(resolved: &mut Resolved, number: i32, abilities: Abilities) -> Result<(), Failure> {
    let given = inherited::connection(number).map_err(|errno| {
        let hint = "the caller mounts with a /dev/fuse of its own, and leaves it open under this number";
        Failure::refused(format!("/dev/fd/{number}"), format!("no open /dev/fuse: {errno}"), hint)
    })?;
    if resolved.mount.auto_unmount {
        let hint = "leave it out: whoever has mounted unmounts";
        return Err(Failure::usage("auto_unmount", format!("/dev/fd/{number} is no path to unmount"), hint));
    }
    if resolved.mount.flags.ro
        && let Some(upper) = resolved.config.upper.take()
    {
        resolved.config.lowers.insert(0, upper.dir);
    }
    resolved.mount.given = Some(Arc::new(given));
    // Whether the kernel checks modes, and set-user-id bits count, the caller has settled.
    resolved.config.asked_for_acls = true;
    resolved.config.suid_view = abilities.ids_are_initial;
    resolved.config.doubts_marks = abilities.ids_are_initial;
    Ok(())
}

fn complete(words: &[Word], debug: bool) -> Result<(), Failure> {
    let abilities = Abilities { mounts_directly: process::is_admin(), ids_are_initial: process::ids_are_initial() };
    let mut resolved = resolve::resolve(words, None, Path::new("/"), Manner::default(), abilities)?;
    let Some(upper) = &resolved.config.upper else {
        let reason = "without an upper layer no file arrives by blocks";
        return Err(Failure::usage("complete", reason, "upperdir=DIR,workdir=DIR, as the view was mounted"));
    };
    // Nothing is mounted; a log does not go there either.
    resolved.mount.mountpoint.clone_from(&upper.dir);
    log::begin(&mut resolved, true, debug)?.as_ref().map_or(Ok(()), daemon::log_to)?;
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

/// The mountpoint without symbolic links.
pub(super) fn mountpoint(merged: &Path) -> Result<PathBuf, Failure> {
    std::fs::canonicalize(merged).map_err(|error| no_mountpoint(merged, error.into()))
}

fn no_mountpoint(merged: &Path, errno: Errno) -> Failure {
    let hint = match errno.raw() {
        libc::ENOENT => format!("mkdir {}", merged.display()),
        libc::ENOTCONN | libc::ECONNABORTED => {
            format!("a mount whose daemon died is in the way: plyfs umount {}", merged.display())
        }
        _ => "the mountpoint is an existing directory".to_owned(),
    };
    Failure::refused(merged.display().to_string(), errno.to_string(), hint)
}

/// So many descriptors are expected at most; the table takes 8 bytes for each.
const MOST_DESCRIPTORS: usize = 1 << 14;

/// Serves the view in this process, to its end. `successive`: this daemon is one of several, one after the other.
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
    if mount.auto_unmount {
        auto_unmount::start(&mount.mountpoint).map_err(|errno| {
            Failure::refused("auto_unmount", errno.to_string(), "leave it out; Linux 5.3 has what it needs")
        })?;
    }
    let rivals = Rivals::of(&config);
    // The next of several daemons goes on with what is mounted, whatever stands beside it.
    let mut notes = Vec::new();
    if successive.as_ref().is_none_or(|one| one.connection.is_none()) {
        notes.clone_from(&resolved.notes);
        notes.append(&mut rivals.check()?);
    }
    let union = Arc::new(Union::open_with(config, successive.as_ref().map(|one| one.journal.clone()))?);
    for note in notes.iter().chain(union.notes()) {
        if resolved.in_place {
            // Its callers show each line to their users.
            ::log::info!("{note}");
        } else {
            report.note(note);
        }
    }
    mount.flags.ro |= !union.is_writable();
    let failed = |error: std::io::Error| Failure::system("a thread", error.to_string(), "");
    let (described, is_writable) = (describe(resolved, &mount, &union, &notes), union.is_writable());
    let adapter = Adapter::new(union, mount.data, described);
    if is_writable {
        let live = Arc::downgrade(adapter.live());
        let union = move || live.upgrade().map(|live| live.enter().clone());
        rivals.watch(move || union().map(|union| union.lower_dirs()).unwrap_or_default()).map_err(failed)?;
    }
    let _tender = adapter.live().tend().map_err(failed)?;
    session::serve(adapter, (&mount, guard.ok()), successive, || report.up())?;
    Ok(())
}
