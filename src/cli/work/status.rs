//! `plyfs status`: the views that are mounted, and what one of them is.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::Args;

use super::super::commands::print;
use super::super::json;
use super::super::paint::Paint;
use super::super::report::{Failure, printable};
use super::super::view::View;
use super::super::{show, told};
use super::changes;
use super::shared::Shared;
use crate::base::Errno;
use crate::base::described::Described;
use crate::session::{Session, Store};
use crate::sys::mounts::{self, MountEntry};
use crate::tool::{self, Weight};

/// the views and the sessions, or what one of them is
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  plyfs status\n  plyfs status --json ~/view\n  plyfs status try-it")]
pub struct Status {
    /// A directory in a view, or a session, of which all is told (a line for each)
    view: Option<PathBuf>,
    #[command(flatten)]
    shared: Shared,
}

impl Status {
    /// Prints it.
    ///
    /// # Errors
    /// There is no view, or its daemon does not tell.
    pub fn run(self) -> Result<u8, Failure> {
        if let Some(view) = &self.view {
            return match changes::named(view, self.shared.store)? {
                Some(session) => print(&of_session(&session, self.shared.json)?),
                None => print(&of_view(view, self.shared.json)?),
            }
            .map(|()| 0);
        }
        let table = mounts::table()
            .map_err(|errno| Failure::system("/proc/self/mountinfo", errno.to_string(), "is /proc mounted?"))?;
        let views: Vec<(PathBuf, Result<Described, Errno>)> =
            table.iter().filter(|mount| is_view(mount)).map(|mount| (mount.at.clone(), show::ask(&mount.at))).collect();
        let paint = self.shared.color.paint();
        let one = |at: &Path, told: &Result<Described, Errno>| {
            if self.shared.json { object(at, told) } else { line(at, told, paint) }
        };
        let views: String = views.iter().map(|(at, told)| one(at, told)).collect();
        // Somebody without a home has no sessions.
        let sessions =
            Store::find_all(self.shared.store).map_err(|errno| Failure::refused("--store", errno.to_string(), ""))?;
        let one = |session: &Session| if self.shared.json { json_of(session) } else { line_of(session, paint) };
        let sessions: String = sessions.iter().map(one).collect();
        print(&(views + &sessions)).map(|()| 0)
    }
}

/// What the view is, and what is in its upper layer where this user can read that.
fn of_view(at: &Path, json: bool) -> Result<String, Failure> {
    let told = show::show(at, json)?;
    let view = View::find(&[], &[at.to_owned()]).ok().filter(|view| view.config.upper.is_some());
    let Some(Ok(weight)) = view.map(|view| tool::weigh_upper(&view.layers)) else { return Ok(told) };
    Ok(match (json, told.strip_suffix("}\n")) {
        (true, Some(object)) => format!("{object},{}}}\n", in_upper(weight)),
        _ => format!("{told}objects     {}\nbytes       {}\n", weight.objects, weight.bytes),
    })
}

/// `"objects":2,"bytes":4096`
fn in_upper(weight: Weight) -> String {
    format!("\"objects\":{},\"bytes\":{}", weight.objects, weight.bytes)
}

/// What a session is, and what is in the upper layer of each of its file systems.
fn of_session(session: &Session, json: bool) -> Result<String, Failure> {
    let failed = |errno: Errno| Failure::refused(session.name.clone(), errno.to_string(), "");
    let (mut text, mut objects) = (String::new(), Vec::new());
    let half_applied = session.has_pending_apply();
    for place in session.places().map_err(failed)? {
        let upper = session.dirs(&place).0;
        let (at, dir) = (place.at.as_os_str().as_bytes(), upper.as_os_str().as_bytes());
        let (words, members) = if half_applied {
            ("half applied".to_owned(), String::new())
        } else if changes::is_there(&place) {
            let weight = tool::weigh_upper(&changes::part(session, &place)?.layers).map_err(failed)?;
            let words = format!("{} objects, {}", told::grouped(weight.objects), told::bytes(weight.bytes));
            (words, format!(",{}", in_upper(weight)))
        } else {
            ("not mounted there now".to_owned(), String::new())
        };
        text += &format!("at          {}  {words}, upper {}\n", printable(at), printable(dir));
        objects.push(format!("{{{},{}{members}}}", json::member("mountpoint", at), json::member("upperdir", dir)));
    }
    if json {
        return Ok(format!("{{\"v\":1,{},\"file_systems\":[{}]}}\n", members(session), objects.join(",")));
    }
    Ok(format!("session     {}\nstate       {}\n{text}", session.name, state(session)))
}

/// Whether a mount is one of plyfs, under its own name or in the place of fuse-overlayfs.
fn is_view(mount: &MountEntry) -> bool {
    mount.kind == "fuse.plyfs" || mount.kind == "fuse.fuse-overlayfs"
}

/// `MOUNTPOINT  pid 12  upper DIR, 3 lower`
fn line(at: &Path, told: &Result<Described, Errno>, paint: Paint) -> String {
    let at = paint.strong(&printable(at.as_os_str().as_bytes()));
    let told = match told {
        Ok(told) => told,
        Err(errno) if show::is_no_view(*errno) => return String::new(),
        Err(errno) => return format!("{at}  does not answer: {errno}\n"),
    };
    let first = |key: &str| told.all(key).next().map(printable).unwrap_or_default();
    let upper =
        if told.all("upperdir").next().is_some() { format!("upper {}", first("upperdir")) } else { "read-only".into() };
    format!("{at}  pid {}  {upper}, {} lower\n", first("pid"), told.all("lowerdir").count())
}

/// `session NAME  in use, 2 file systems`
fn line_of(session: &Session, paint: Paint) -> String {
    let (state, places) = (state(session), count(session));
    let s = if places == 1 { "" } else { "s" };
    format!("session {}  {state}, {places} file system{s}\n", paint.strong(&session.name))
}

fn json_of(session: &Session) -> String {
    format!("{{\"v\":1,{},\"file_systems\":{}}}\n", members(session), count(session))
}

/// `"session":"NAME","in_use":true,"half_applied":false`
fn members(session: &Session) -> String {
    let (in_use, half) = (is_in_use(session), session.has_pending_apply());
    format!("{},\"in_use\":{in_use},\"half_applied\":{half}", json::member("session", session.name.as_bytes()))
}

fn is_in_use(session: &Session) -> bool {
    matches!(session.lock(), Ok(None))
}

/// How many file systems it covers.
fn count(session: &Session) -> usize {
    session.places().map_or(0, |places| places.len())
}

fn state(session: &Session) -> String {
    match session {
        session if is_in_use(session) => "in use".to_owned(),
        session if session.has_pending_apply() => format!("half applied (plyfs apply {} --resume)", session.name),
        _ => "kept".to_owned(),
    }
}

fn object(at: &Path, told: &Result<Described, Errno>) -> String {
    match told {
        Ok(told) => show::json(told),
        Err(errno) if show::is_no_view(*errno) => String::new(),
        Err(errno) => {
            let at = json::member("mountpoint", at.as_os_str().as_bytes());
            format!("{{\"v\":1,{at},{}}}\n", json::member("error", errno.to_string().as_bytes()))
        }
    }
}
