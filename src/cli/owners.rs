//! Whose the objects of the view are: `uidmapping=`, `gidmapping=` and the `squash_to_` options.

use super::grammar::Word;
use super::options::Key;
use super::report::Failure;
use crate::base::config::{IdMap, Shown};

/// What was said of it.
#[derive(Debug, Default)]
pub(super) struct OwnerWishes {
    uid: IdWishes,
    gid: IdWishes,
    to_root: bool,
}

/// What was said of users, or of groups.
#[derive(Debug, Default)]
struct IdWishes {
    map: Option<IdMap>,
    all: Option<u32>,
}

impl OwnerWishes {
    /// Notes one of the options; true if it is one of them.
    ///
    /// # Errors
    /// A malformed map or number.
    pub(super) fn take(&mut self, key: Key, word: &Word) -> Result<bool, Failure> {
        match key {
            Key::UidMapping => self.uid.map = Some(map(word)?),
            Key::GidMapping => self.gid.map = Some(map(word)?),
            Key::SquashToUid => self.uid.all = Some(id(word)?),
            Key::SquashToGid => self.gid.all = Some(id(word)?),
            Key::SquashToRoot => self.to_root = true,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// How users and groups are shown.
    ///
    /// # Errors
    /// Two options that say different things of the same.
    pub(super) fn settle(self) -> Result<[Shown; 2], Failure> {
        let names = [("uidmapping", "squash_to_uid"), ("gidmapping", "squash_to_gid")];
        let [users, groups] = names;
        Ok([settle(self.uid, self.to_root, users)?, settle(self.gid, self.to_root, groups)?])
    }
}

fn settle(wishes: IdWishes, to_root: bool, (map, all): (&str, &str)) -> Result<Shown, Failure> {
    let hint = "leave one of the two out";
    match (wishes.map, wishes.all, to_root) {
        (Some(_), Some(_), _) => Err(Failure::usage(map, format!("contradicts {all}="), hint)),
        (Some(_), None, true) => Err(Failure::usage(map, "contradicts squash_to_root", hint)),
        (_, Some(1..), true) => Err(Failure::usage(all, "contradicts squash_to_root", hint)),
        (Some(map), ..) => Ok(Shown::Mapped(map)),
        (None, Some(id), _) => Ok(Shown::All(id)),
        (None, None, true) => Ok(Shown::All(0)),
        (None, None, false) => Ok(Shown::Same),
    }
}

fn text(word: &Word) -> &str {
    word.value.as_deref().and_then(|value| std::str::from_utf8(value).ok()).unwrap_or("?")
}

/// A map may be long: only what is wrong with it is told.
fn map(word: &Word) -> Result<IdMap, Failure> {
    let hint = format!("{}=LAYER:VIEW:COUNT[:LAYER:VIEW:COUNT…], each id once on either side", word.key);
    IdMap::parse(text(word)).map_err(|reason| Failure::usage(&word.key, reason, hint))
}

fn id(word: &Word) -> Result<u32, Failure> {
    let digits = text(word).bytes().all(|byte| byte.is_ascii_digit());
    let id = text(word).parse().ok().filter(|id| digits && *id != u32::MAX);
    id.ok_or_else(|| Failure::usage(word.display(), "not an id", format!("{}=0 to {}", word.key, u32::MAX - 1)))
}

#[cfg(test)]
mod tests {
    use super::super::grammar::split_options;
    use super::super::options;
    use super::*;

    fn settled(list: &str) -> Result<[Shown; 2], Failure> {
        let mut wishes = OwnerWishes::default();
        for word in split_options(list.as_bytes()) {
            let key = options::check(&word)?.unwrap();
            assert!(wishes.take(key, &word)?, "{list}");
        }
        wishes.settle()
    }

    #[test]
    fn what_is_said_of_owners_is_one_thing() {
        let map = |text| Shown::Mapped(IdMap::parse(text).unwrap());
        for (list, uid, gid) in [
            ("uidmapping=:0:1:1:5:9:2", map("0:1:1:5:9:2"), Shown::Same),
            ("uidmapping=0:1:2,gidmapping=3:4:5", map("0:1:2"), map("3:4:5")),
            ("uidmapping=0:1:2,uidmapping=0:2:2", map("0:2:2"), Shown::Same),
            ("squash_to_root", Shown::All(0), Shown::All(0)),
            ("squash_to_root,squash_to_uid=0", Shown::All(0), Shown::All(0)),
            ("squash_to_uid=1000,gidmapping=0:1:2", Shown::All(1000), map("0:1:2")),
            ("squash_to_gid=4294967294", Shown::Same, Shown::All(u32::MAX - 1)),
        ] {
            assert_eq!(settled(list).unwrap(), [uid, gid], "{list}");
        }
    }

    #[test]
    fn what_cannot_be_is_one_line_that_names_the_option() {
        for (list, name, reason) in [
            ("uidmapping=0:1", "uidmapping", "2 numbers"),
            ("gidmapping=0:1:2:1:5:1", "gidmapping", "id 1 of the layers stands in two ranges"),
            ("uidmapping=0:1:2,squash_to_uid=1", "uidmapping", "contradicts squash_to_uid="),
            ("gidmapping=0:1:2,squash_to_root", "gidmapping", "contradicts squash_to_root"),
            ("squash_to_root,squash_to_gid=5", "squash_to_gid", "contradicts squash_to_root"),
            ("squash_to_uid=-1", "squash_to_uid=-1", "not an id"),
            ("squash_to_uid=+1", "squash_to_uid=+1", "not an id"),
            ("squash_to_gid=4294967295", "squash_to_gid=4294967295", "not an id"),
            ("squash_to_gid=root", "squash_to_gid=root", "not an id"),
        ] {
            let told = settled(list).unwrap_err().to_string();
            let line = told.starts_with(name) && told.contains(reason) && !told.contains('\n');
            assert!(line, "{list}: {told}");
        }
    }
}
