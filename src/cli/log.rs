//! Where the log goes, and how much is logged: a hostile layer, or a program that asks a thousand times for what is broken,
//! must not fill a disk.

use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use log::{Level, LevelFilter, Log as _, Metadata, Record};
use syslog::{Facility, Formatter3164, LoggerBackend};

use super::report::{Failure, one_line, printable};
use super::resolve::Resolved;
use crate::base::sync::Mutex;
use crate::base::{Errno, panics};

/// `log=`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum To {
    /// Standard error: the default in the foreground.
    Stderr,
    /// The system's log, which is the journal where there is one: the default in the background.
    Syslog,
    /// Nowhere.
    Off,
    /// The end of this file.
    File(PathBuf),
}

impl To {
    /// Reads the value of the option.
    pub fn parse(value: &[u8]) -> Self {
        match value {
            b"stderr" => Self::Stderr,
            b"syslog" => Self::Syslog,
            b"off" => Self::Off,
            path => Self::File(super::grammar::path(path)),
        }
    }

    /// The value of the option.
    pub fn word(&self) -> String {
        match self {
            Self::Stderr => "stderr".to_owned(),
            Self::Syslog => "syslog".to_owned(),
            Self::Off => "off".to_owned(),
            Self::File(path) => printable(path.as_os_str().as_bytes()),
        }
    }
}

/// Where the system's log listens (syslog(3), and as BSD has it).
const SOCKETS: [&str; 3] = ["/dev/log", "/var/run/syslog", "/var/run/log"];

/// Begins the log of this process and of those that it forks, and settles what `log=` is where it was not given. With `debug`
/// all is logged, unless `RUST_LOG` says otherwise.
///
/// A log in a file is written to standard error: the caller makes that the file, which is returned.
///
/// # Errors
/// Those of [opening](open) the file.
pub fn begin(resolved: &mut Resolved, foreground: bool, debug: bool) -> Result<Option<File>, Failure> {
    let asked = resolved.log.take();
    let to = asked.clone().unwrap_or(if foreground { To::Stderr } else { To::Syslog });
    let file = if let To::File(path) = &to { Some(open(path, resolved)?) } else { None };
    let socket = if to == To::Syslog { system_log(&resolved.mount.mountpoint) } else { None };
    // Many machines, containers above all, have no system log: who has not asked for it is not told at each mount.
    if asked == Some(To::Syslog) && socket.is_none() {
        let note = "log=syslog: there is no /dev/log outside of the view, nothing is logged; log=FILE does without it";
        resolved.notes.push(note.to_owned());
    }
    start(&to, socket, debug || resolved.debug, &resolved.mount.mountpoint);
    resolved.log = Some(to);
    Ok(file)
}

/// The socket of the system's log, by a path without symlinks and outside of the view: a request that looked for it in the
/// view would wait for itself.
fn system_log(mountpoint: &Path) -> Option<PathBuf> {
    let listens = |path: &PathBuf| std::fs::metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    let found = SOCKETS.iter().find_map(|path| std::fs::canonicalize(path).ok().filter(listens))?;
    if found.starts_with(mountpoint) { None } else { Some(found) }
}

fn start(to: &To, socket: Option<PathBuf>, debug: bool, about: &Path) {
    let level = if debug { "debug" } else { "warn" };
    let filter = env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(level)).build();
    let sink = match to {
        To::Stderr | To::File(_) => Sink::Stderr,
        To::Syslog => socket.map_or(Sink::Nowhere, |socket| {
            let view = printable(about.as_os_str().as_bytes());
            Sink::Syslog(Syslog { view, socket, connection: Mutex::new(None) })
        }),
        To::Off => Sink::Nowhere,
    };
    log::set_max_level(if *to == To::Off { LevelFilter::Off } else { filter.filter() });
    let is_bounded = !debug && std::env::var_os("RUST_LOG").is_none();
    // Only once in a process: there is no other log.
    let _ = log::set_boxed_logger(Box::new(Log { filter, sink, limit: is_bounded.then(Limit::default) }));
    panics::record();
}

/// Opens the file of `log=FILE` to add to it; a new one is for its owner only. This is done before anything is mounted, so
/// that it is never a file of the view.
///
/// # Errors
/// Those of open(2); that it is a symlink, or no file; that it lies where the view or its upper layer is.
fn open(path: &Path, resolved: &Resolved) -> Result<File, Failure> {
    let refused = |reason: String, hint: &str| Failure::refused(format!("log={}", path.display()), reason, hint);
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let dir = std::fs::canonicalize(dir).map_err(|error| refused(Errno::from(error).to_string(), "name a file"))?;
    let upper = resolved.config.upper.iter().flat_map(|upper| [&upper.dir, &upper.work]);
    for taken in upper.chain([&resolved.mount.mountpoint]) {
        if dir.starts_with(std::fs::canonicalize(taken).as_ref().unwrap_or(taken)) {
            let hint = "name a file elsewhere";
            return Err(refused(format!("lies in {}, which is the view's own", taken.display()), hint));
        }
    }
    // A FIFO without a reader would be waited for.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = File::options().append(true).create(true).mode(0o600).custom_flags(flags).open(path);
    let file = file.map_err(|error| match error.raw_os_error() {
        Some(libc::ELOOP) => refused("a symlink, which is not followed".to_owned(), "name the file itself"),
        Some(libc::ENXIO) => refused("not a file".to_owned(), "name a file"),
        _ => refused(Errno::from(error).to_string(), "name a file"),
    })?;
    match file.metadata() {
        Ok(meta) if meta.mode() & libc::S_IFMT == libc::S_IFREG => Ok(file),
        _ => Err(refused("not a file".to_owned(), "name a file")),
    }
}

/// The log.
struct Log {
    /// What is logged at all, and the writer to standard error.
    filter: env_logger::Logger,
    sink: Sink,
    /// `None`: everything is logged.
    limit: Option<Limit>,
}

enum Sink {
    Stderr,
    Syslog(Syslog),
    Nowhere,
}

impl Log {
    fn write(&self, record: &Record<'_>) -> bool {
        match &self.sink {
            Sink::Stderr => self.filter.log(record),
            Sink::Syslog(syslog) => return syslog.write(record.level(), &record.args().to_string()),
            Sink::Nowhere => {}
        }
        true
    }
}

impl log::Log for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.filter.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        // A panic stands in the log once.
        if !self.filter.matches(record) || panics::is_echo(record) {
            return;
        }
        let limit = self.limit.as_ref().filter(|_| record.target() != panics::ALWAYS);
        let Some(limit) = limit else {
            self.write(record);
            return;
        };
        let Some(left_out) = limit.admit(record.level(), Instant::now()) else { return };
        if left_out > 0 {
            let text = format_args!("{left_out} lines like the next one were left out");
            self.write(&Record::builder().level(record.level()).target(record.target()).args(text).build());
        }
        if !self.write(record) {
            limit.lost(record.level());
        }
    }

    fn flush(&self) {
        self.filter.flush();
    }
}

/// Lines of one level that are logged at once, and how long it takes until one more may be.
const BURST: u32 = 100;
const EACH: Duration = Duration::from_secs(5);

/// Counts the lines of each level: many warnings do not keep an error out.
#[derive(Default)]
struct Limit([Mutex<Option<Bucket>>; Level::Trace as usize + 1]);

struct Bucket {
    left: u32,
    since: Instant,
    left_out: u64,
}

impl Limit {
    /// `Some` where a line may be logged: how many were left out since the one before.
    fn admit(&self, level: Level, now: Instant) -> Option<u64> {
        let mut bucket = self.0.get(level as usize)?.lock();
        let bucket = bucket.get_or_insert(Bucket { left: BURST, since: now, left_out: 0 });
        let due = now.saturating_duration_since(bucket.since).as_secs() / EACH.as_secs();
        if let Ok(due @ 1..) = u32::try_from(due) {
            bucket.left = bucket.left.saturating_add(due).min(BURST);
            bucket.since = now;
        }
        if bucket.left == 0 {
            bucket.left_out = bucket.left_out.saturating_add(1);
            return None;
        }
        bucket.left = bucket.left.saturating_sub(1);
        Some(std::mem::take(&mut bucket.left_out))
    }

    /// A line that was admitted could not be written.
    fn lost(&self, level: Level) {
        if let Some(bucket) = self.0.get(level as usize)
            && let Some(bucket) = &mut *bucket.lock()
        {
            bucket.left_out = bucket.left_out.saturating_add(1);
        }
    }
}

/// The system's log. Each line says of which view it is.
struct Syslog {
    view: String,
    socket: PathBuf,
    connection: Mutex<Option<Connection>>,
}

/// The connection of one process. A process that was forked from it makes its own.
struct Connection {
    pid: u32,
    logger: syslog::Logger<LoggerBackend, Formatter3164>,
}

impl Connection {
    fn to(socket: &Path) -> Option<Self> {
        let pid = std::process::id();
        let (process, facility) = ("plyfs".to_owned(), Facility::LOG_DAEMON);
        let logger = syslog::unix_custom(Formatter3164 { facility, hostname: None, process, pid }, socket).ok()?;
        // A request must not wait for who reads the log: that one may be waiting for the view.
        match &logger.backend {
            LoggerBackend::Unix(socket) => socket.set_nonblocking(true).ok()?,
            LoggerBackend::UnixStream(socket) => socket.get_ref().set_nonblocking(true).ok()?,
            _ => return None,
        }
        Some(Self { pid, logger })
    }

    fn send(&mut self, level: Level, line: &str) -> Result<(), syslog::Error> {
        match level {
            Level::Error => self.logger.err(line),
            Level::Warn => self.logger.warning(line),
            Level::Info => self.logger.info(line),
            Level::Debug | Level::Trace => self.logger.debug(line),
        }
    }
}

/// Lines of one record (a backtrace has many) that are sent, and characters of each line.
const MOST_LINES: usize = 200;
const MOST_CHARS: usize = 900;

impl Syslog {
    /// Sends a record; false if some of it did not get out.
    fn write(&self, level: Level, text: &str) -> bool {
        let mut connection = self.connection.lock();
        if let Some(other) = connection.take_if(|connection| connection.pid != std::process::id()) {
            // Its descriptor may be closed here, or be another one's by now.
            std::mem::forget(other);
        }
        text.lines().take(MOST_LINES).all(|line| {
            let line: String = one_line(line).chars().take(MOST_CHARS).collect();
            self.send(&mut connection, level, &format!("{}: {line}", self.view))
        })
    }

    /// Sends a line; once more where the system's log was started anew since.
    fn send(&self, connection: &mut Option<Connection>, level: Level, line: &str) -> bool {
        for _ in 0..2 {
            if connection.is_none() {
                *connection = Connection::to(&self.socket);
            }
            let Some(open) = connection.as_mut() else { return false };
            match open.send(level, line) {
                Ok(()) => return true,
                Err(syslog::Error::Write(error)) if error.kind() == std::io::ErrorKind::WouldBlock => return false,
                Err(_) => *connection = None,
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_the_rest_counted_by_level() {
        let (limit, start) = (Limit::default(), Instant::now());
        let admitted = |level, at: Duration, lines: u32| {
            (0..lines).filter_map(|_| limit.admit(level, start + at)).fold((0, 0), |(n, out), left| (n + 1, out + left))
        };
        assert_eq!(admitted(Level::Warn, Duration::ZERO, 1000), (BURST, 0));
        assert_eq!(admitted(Level::Error, Duration::ZERO, 3), (3, 0));
        assert_eq!(admitted(Level::Warn, EACH - Duration::from_millis(1), 1), (0, 0));
        assert_eq!(admitted(Level::Warn, EACH, 5), (1, 901));
        limit.lost(Level::Warn);
        assert_eq!(admitted(Level::Warn, EACH * 3, 9), (2, 5));
        assert_eq!(admitted(Level::Warn, EACH * 100_000, 1000), (BURST, 7));
    }

    #[test]
    fn a_log_is_named_as_it_was_given() {
        for (value, to) in [
            ("stderr", To::Stderr),
            ("syslog", To::Syslog),
            ("off", To::Off),
            ("./off", To::File("./off".into())),
            (r"/a\,b", To::File("/a,b".into())),
        ] {
            assert_eq!(To::parse(value.as_bytes()), to, "{value}");
        }
        assert_eq!((To::File("/a\nb".into()).word(), To::Off.word()), (r"/a\nb".to_owned(), "off".to_owned()));
    }
}
