//! `plyfs where`: which layers an object comes from.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::Args;

use super::super::commands::print;
use super::super::json::{member, quoted};
use super::super::paint::Paint;
use super::super::report::{Failure, printable};
use super::super::told;
use super::super::view::View;
use super::changes;
use super::shared::Shared;
use crate::session::Session;
use crate::tool::{self, Gives, Hider, Layers, Part, Whereabouts};

/// which layers an object comes from, and what they hide
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  plyfs where etc/app.conf\n  plyfs where --json ~/view/etc ~/view/lib\n  plyfs where try-it /etc/hosts"
)]
pub struct Where {
    /// Paths in one view; behind the name of a session, paths in that
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    /// The layers of a view that is not mounted, as `mount` takes them
    #[arg(short = 'o', value_name = "OPTION,…")]
    options: Vec<OsString>,
    #[command(flatten)]
    shared: Shared,
}

impl Where {
    /// Prints it.
    ///
    /// # Errors
    /// There is no view, it cannot be read, or no layer has such an object.
    pub fn run(self) -> Result<u8, Failure> {
        if self.options.is_empty()
            && let Some((first, paths)) = self.paths.split_first()
            && !paths.is_empty()
            && let Some(session) = changes::named(first, self.shared.store.clone())?
        {
            return paths.iter().try_for_each(|path| self.tell_of_session(&session, path)).map(|()| 0);
        }
        let View { layers, mut paths, .. } = View::find(&self.options, &self.paths)?;
        let layers = layers.with_index();
        if paths.is_empty() {
            paths.push(PathBuf::new());
        }
        paths.iter().try_for_each(|path| self.tell(&layers, path, path)).map(|()| 0)
    }

    fn tell_of_session(&self, session: &Session, path: &Path) -> Result<(), Failure> {
        let whole = changes::whole(path)?;
        let Some((part, inside)) = changes::at(session, &whole)? else {
            let hint = format!("plyfs status {} lists its file systems", session.name);
            return Err(Failure::refused(told::line(path), "the session does not cover it", hint));
        };
        self.tell(&part.layers.with_index(), &inside, &whole)
    }

    /// Tells of a path in a view, which is called by `name`.
    fn tell(&self, layers: &Layers, path: &Path, name: &Path) -> Result<(), Failure> {
        let what = || if name.as_os_str().is_empty() { ".".to_owned() } else { told::line(name) };
        let mut found = tool::whereabouts(layers, path)
            .map_err(|errno| Failure::refused(what(), errno.to_string(), "the layers must be readable"))?;
        if found.parts.is_empty() {
            return Err(Failure::refused(what(), "no layer has it", "name a path in the view"));
        }
        name.clone_into(&mut found.path);
        print(&if self.shared.json { json(&found) } else { text(&what(), &found, self.shared.color.paint()) })
    }
}

/// A line for each layer that has something.
fn text(name: &str, found: &Whereabouts, paint: Paint) -> String {
    let width = |text: &str| text.chars().count();
    let at = |part: &Part| told::line(&part.at);
    let longest = found.parts.iter().map(|part| width(&at(part))).max().unwrap_or(0);
    let mut lines = String::new();
    for (count, part) in found.parts.iter().enumerate() {
        let first = if count == 0 { name.to_owned() } else { " ".repeat(width(name)) };
        let gap = " ".repeat(longest - width(&at(part)));
        let line = format!("{first}  {} {:<5}  {}{gap}  {}", part.level, part.role.word(), at(part), said(part));
        let line = line.trim_end();
        lines += &if part.gives.is_empty() { paint.faint(line) } else { line.to_owned() };
        lines.push('\n');
    }
    lines
}

fn said(part: &Part) -> String {
    let gives: Vec<_> = part.gives.iter().map(|gives| word(*gives)).collect();
    let mut said = vec![gives.join(", ")];
    said.extend((!part.marks.is_empty()).then(|| {
        format!("({})", part.marks.iter().map(|mark| printable(mark.as_bytes())).collect::<Vec<_>>().join(", "))
    }));
    said.extend(part.hidden_by.as_ref().map(|Hider { level, what }| match level {
        Some(level) => format!("hidden by {level} ({what})"),
        None => "hidden by what is at a directory above".to_owned(),
    }));
    said.retain(|word| !word.is_empty());
    said.join(" ")
}

fn json(found: &Whereabouts) -> String {
    let parts = found.parts.iter().map(|part| {
        let list = |words: Vec<String>| words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(",");
        let gives = list(part.gives.iter().map(|gives| word(*gives).to_owned()).collect());
        let at = member("at", part.at.as_os_str().as_bytes());
        let by = part.hidden_by.as_ref().map(|Hider { level, what }| {
            let level = level.map_or_else(|| "null".to_owned(), |level| level.to_string());
            format!(",\"hidden_by\":{{\"level\":{level},\"what\":{}}}", quoted(what))
        });
        format!(
            "{{\"level\":{},\"role\":{},{at},\"gives\":[{gives}],\"marks\":[{}]{}}}",
            part.level,
            quoted(part.role.word()),
            list(part.marks.clone()),
            by.unwrap_or_default()
        )
    });
    let path = member("path", found.path.as_os_str().as_bytes());
    let kind = found.kind.map_or_else(|| "null".to_owned(), |kind| quoted(told::word(kind)));
    format!("{{\"v\":1,{path},\"kind\":{kind},\"parts\":[{}]}}\n", parts.collect::<Vec<_>>().join(","))
}

fn word(gives: Gives) -> &'static str {
    match gives {
        Gives::Metadata => "metadata",
        Gives::Data => "data",
        Gives::Blocks => "blocks",
        Gives::Listing => "listing",
    }
}
