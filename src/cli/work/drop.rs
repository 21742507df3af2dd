//! `plyfs drop`: sessions and what they have kept are removed.

use std::path::PathBuf;

use clap::Args;

use super::super::commands::print;
use super::super::report::Failure;
use crate::session::Store;

/// remove sessions and what was changed in them
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  plyfs drop try-it")]
pub struct Drop {
    /// The sessions; nothing is removed unless all are there and none is in use
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// Where sessions are kept ($XDG_STATE_HOME/plyfs)
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
}

impl Drop {
    /// Removes them.
    ///
    /// # Errors
    /// There is no such session, it is in use, or an apply of it was broken off.
    pub fn run(self) -> Result<u8, Failure> {
        let store = Store::new(self.store)?;
        let find = |name: &String| {
            let session = store
                .find(name)
                .ok_or_else(|| Failure::refused(name.clone(), "there is no such session", "plyfs status lists them"))?;
            let lock = session.lock().map_err(|errno| Failure::refused(name.clone(), errno.to_string(), ""))?;
            let lock = lock.ok_or_else(|| Failure::refused(name.clone(), "it is in use", "end its processes first"))?;
            if session.has_pending_apply() {
                let reason = "its changes were being applied, which was broken off: what it keeps is half of them";
                return Err(Failure::refused(name.clone(), reason, format!("go on by plyfs apply {name} --resume")));
            }
            Ok((session, lock))
        };
        let sessions = self.names.iter().map(find).collect::<Result<Vec<_>, Failure>>()?;
        for (session, _lock) in &sessions {
            session.remove().map_err(|errno| Failure::refused(session.name.clone(), errno.to_string(), ""))?;
        }
        store.sweep();
        let dropped = sessions.len();
        print(&format!("{dropped} session{} removed\n", if dropped == 1 { "" } else { "s" })).map(|()| 0)
    }
}
