//! The process that serves the unions of a session.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use super::Session;
use crate::base::{Result, panics};
use crate::fuse::serve::session;
use crate::fuse::serve::settings::MountSettings;
use crate::fuse::{Adapter, Peers};
use crate::sys::{inherited, process};
use crate::union::SetupError;

/// A union that is ready to be served.
pub struct Opened {
    /// It, to the kernel.
    pub adapter: Adapter,
    /// How it is mounted.
    pub settings: MountSettings,
}

/// Opens the union over one place.
pub type Open<'a> = &'a dyn Fn(&Path) -> std::result::Result<Opened, SetupError>;

/// What the daemon holds.
pub(super) struct Daemon<'a> {
    /// Where it hears what to do.
    pub orders: UnixStream,
    /// A place and a connection to the kernel for each union.
    pub unions: Vec<(&'a Path, OwnedFd)>,
    pub open: Open<'a>,
    pub session: &'a Session,
    /// The session is removed at the end.
    pub remove: bool,
    /// Held to the end.
    pub held: Vec<OwnedFd>,
}

/// Orders and answers, a line each.
pub(super) const OPEN: &str = "open ";
pub(super) const SERVE: &str = "serve ";
pub(super) const DONE: &str = "done";

impl Daemon<'_> {
    /// Serves until nobody sees the unions any more.
    pub(super) fn run(self) {
        if let Err(errno) = self.detach() {
            // The command's side finds nobody there, and says so.
            return log::error!("the daemon does not leave its caller: {errno}");
        }
        process::block_endings();
        process::clear_umask();
        process::raise_open_files();
        process::return_large_memory();
        let Self { orders, unions, open, session, remove, held } = self;
        obey((&orders, session), unions, open).into_iter().for_each(|serving| drop(serving.join()));
        if let Err(errno) = session.forget_mounts() {
            log::info!("{}: {errno}", session.dir.display());
        }
        if remove && let Err(errno) = session.remove() {
            log::error!("{} is not removed: {errno}", session.dir.display());
        }
        drop(held);
    }

    fn detach(&self) -> Result<()> {
        process::set_name("plyfs");
        let connections = self.unions.iter().map(|(_, device)| device.as_fd());
        let held = self.held.iter().map(AsFd::as_fd);
        let keep: Vec<BorrowedFd<'_>> = connections.chain(held).chain([self.orders.as_fd()]).collect();
        inherited::close_inherited(&keep)?;
        process::detach(false)
    }
}

/// Does what it is told until the command begins; the threads that serve.
fn obey(
    (orders, session): (&UnixStream, &Session),
    unions: Vec<(&Path, OwnedFd)>,
    open: Open<'_>,
) -> Vec<JoinHandle<()>> {
    let mut unions: Vec<_> = unions.into_iter().map(|(at, device)| (at, Some(device), None)).collect();
    let mut serving = Vec::new();
    let peers = Peers::default();
    for line in BufReader::new(orders).lines().map_while(std::result::Result::ok) {
        let number = |order| line.strip_prefix(order).and_then(|number| number.parse::<usize>().ok());
        let answer = if let Some((at, _, opened)) = number(OPEN).and_then(|number| unions.get_mut(number)) {
            match open(at) {
                Ok(mut union) => {
                    union.adapter.join(&peers);
                    union.adapter.live().record_in(Arc::new(session.steps()));
                    *opened = Some(union);
                    DONE.to_owned()
                }
                Err(error) => format!("{error} {}", error.hint),
            }
        } else if let Some((_, device, opened)) = number(SERVE).and_then(|number| unions.get_mut(number)) {
            if let (Some(device), Some(union)) = (device.take(), opened.take()) {
                serving.extend(serve(union, device));
            }
            DONE.to_owned()
        } else {
            "no such order".to_owned()
        };
        let mut to = orders;
        if to.write_all(format!("{}\n", answer.replace('\n', " ")).as_bytes()).is_err() {
            break;
        }
    }
    serving
}

fn serve(Opened { adapter, mut settings }: Opened, device: OwnedFd) -> Option<JoinHandle<()>> {
    settings.given = Some(Arc::new(device));
    let body = move || {
        let serve = || {
            if let Err(error) = session::serve(adapter, (&settings, None), None, || ()) {
                log::error!("{error} {}", error.hint);
            }
        };
        if !panics::caught(serve) {
            log::error!("{} is not served any more", settings.mountpoint.display());
        }
    };
    let thread = thread::Builder::new().name("session".to_owned()).spawn(body);
    thread.inspect_err(|error| log::error!("a union is not served: {error}")).ok()
}
