//! POSIX ACLs as the values of `system.posix_acl_access` and `system.posix_acl_default`
//! ([acl(5)](https://man7.org/linux/man-pages/man5/acl.5.html), `linux/posix_acl_xattr.h`): a version of 4 bytes, then
//! entries of a tag and permissions of 2 bytes each and an id of 4, all little-endian.

const OWNER: u16 = 0x1;
const USER: u16 = 0x2;
const OWN_GROUP: u16 = 0x4;
const GROUP: u16 = 0x8;
const MASK: u16 = 0x10;
const OTHERS: u16 = 0x20;

/// An entry that names a user or a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// A user.
    User(u32),
    /// A group.
    Group(u32),
}

/// The permission bits that an access ACL gives; `None` for bytes that are no ACL.
pub fn mode(value: &[u8]) -> Option<u32> {
    let (mut mode, mut group, mut mask) = (0, 0, 0o7);
    for entry in entries(value)? {
        let perm = u32::from(perm(entry)) & 0o7;
        match tag(entry) {
            OWNER => mode |= perm << 6,
            OTHERS => mode |= perm,
            MASK => mask = perm,
            _ => group |= perm,
        }
    }
    Some(mode | (group & mask) << 3)
}

/// The users and groups that an ACL names; none in bytes that are no ACL.
pub fn named(value: &[u8]) -> impl Iterator<Item = Named> {
    entries(value).into_iter().flatten().filter_map(name)
}

/// An ACL with other ids: each named user or group becomes what `id` says, and goes where it says `None`. Bytes that are
/// no ACL stay as they are.
pub fn translated(value: &[u8], id: impl Fn(Named) -> Option<u32>) -> Vec<u8> {
    let (Some(version), Some(entries)) = (value.get(..4), entries(value)) else { return value.to_vec() };
    let mut new = version.to_vec();
    for entry in entries {
        let [tag, tag_, perm, perm_, ..] = *entry;
        match name(entry).map(&id) {
            None => new.extend(entry),
            Some(Some(id)) => {
                new.extend([tag, tag_, perm, perm_]);
                new.extend(id.to_le_bytes());
            }
            Some(None) => {}
        }
    }
    new
}

/// A mode for what has no ACL any more, without what this one gives to or takes from the users and groups that it names:
/// they belong to the owning group or to others then, who get no more than each of them had.
pub fn mode_without(mode: u32, value: &[u8]) -> u32 {
    let with_tag = |wanted| {
        let mut found = entries(value).into_iter().flatten().filter(move |entry| tag(entry) == wanted);
        found.next().map(|entry| u32::from(perm(entry)) & 0o7)
    };
    let group = with_tag(OWN_GROUP).unwrap_or(0) & with_tag(MASK).unwrap_or(0o7);
    let least = u32::from(least(value, &|_| true));
    mode & !0o077 | (group & least) << 3 | mode & least
}

/// An ACL without the entries for those whom `goes` names. The owning group and others get no more than each of them
/// had.
pub fn without(value: &[u8], goes: &dyn Fn(Named) -> bool) -> Vec<u8> {
    let (Some(version), Some(entries)) = (value.get(..4), entries(value)) else { return value.to_vec() };
    let least = least(value, goes);
    let mut new = version.to_vec();
    for entry in entries.iter().filter(|entry| !name(entry).is_some_and(goes)) {
        let [tag_, tag__, _, _, id @ ..] = *entry;
        let perm = if matches!(tag(entry), OWN_GROUP | OTHERS) { perm(entry) & least } else { perm(entry) };
        new.extend([tag_, tag__]);
        new.extend(perm.to_le_bytes());
        new.extend(id);
    }
    new
}

/// What an ACL gives to all of those whom `which` names.
fn least(value: &[u8], which: &dyn Fn(Named) -> bool) -> u16 {
    let entries = entries(value).unwrap_or_default();
    let mask = entries.iter().find(|entry| tag(entry) == MASK).map_or(0o7, perm);
    let named = entries.iter().filter(|entry| name(entry).is_some_and(which));
    named.fold(0o7, |least, entry| least & perm(entry) & mask)
}

fn entries(value: &[u8]) -> Option<&[[u8; 8]]> {
    Some(value.get(4..)?.as_chunks().0)
}

fn tag([one, two, ..]: &[u8; 8]) -> u16 {
    u16::from_le_bytes([*one, *two])
}

fn perm([_, _, one, two, ..]: &[u8; 8]) -> u16 {
    u16::from_le_bytes([*one, *two])
}

fn name(entry: &[u8; 8]) -> Option<Named> {
    let [.., a, b, c, d] = *entry;
    let id = u32::from_le_bytes([a, b, c, d]);
    match tag(entry) {
        USER => Some(Named::User(id)),
        GROUP => Some(Named::Group(id)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut value = 2u32.to_le_bytes().to_vec();
        for (tag, perm, id) in entries {
            value.extend(tag.to_le_bytes().iter().chain(&perm.to_le_bytes()).chain(&id.to_le_bytes()));
        }
        value
    }

    #[test]
    fn an_acl_makes_a_mode() {
        for (entries, expected) in [
            (&[(1, 6, 0), (4, 4, 0), (0x20, 0, 0)][..], 0o640),
            (&[(1, 7, 0), (2, 7, 5), (4, 0, 0), (0x10, 5, 0), (0x20, 1, 0)], 0o751),
            (&[(1, 0, 0), (2, 4, 5), (4, 0, 0), (0x10, 0, 0), (0x20, 0, 0)], 0o000),
        ] {
            assert_eq!(mode(&acl(entries)), Some(expected));
        }
        assert_eq!((mode(b"abc"), mode(&[2, 0, 0, 0, 1])), (None, Some(0)));
    }

    #[test]
    fn nobody_gains_by_an_acl_that_goes() {
        for (named, mask, before, after) in [
            (&[][..], 7, 0o644, 0o644),
            (&[(2, 7)], 7, 0o674, 0o644),
            (&[(2, 0)], 7, 0o674, 0o600),
            (&[(8, 1)], 7, 0o675, 0o601),
            (&[(2, 7), (8, 4)], 5, 0o657, 0o644),
            (&[(2, 7)], 0, 0o604, 0o600),
            (&[(2, 5)], 7, 0o4777, 0o4745),
        ] {
            let (group, others) = (4, before as u16 & 7);
            let named = named.iter().map(|(tag, perm)| (*tag, *perm, 5));
            let of = |group, others| [(1, 6, 0), (4, group, 0), (0x10, mask, 0), (0x20, others, 0)];
            let value = acl(&of(group, others).into_iter().chain(named).collect::<Vec<_>>());
            assert_eq!(format!("{:o}", mode_without(before, &value)), format!("{after:o}"), "{before:o}");
            let left = without(&value, &|_| true);
            let least = least(&value, &|_| true);
            assert_eq!(left, acl(&of(group & least, others & least)), "{before:o}");
            assert_eq!(without(&value, &|_| false), value);
        }
    }

    #[test]
    fn named_entries_get_other_ids_or_go() {
        let none = u32::MAX;
        let old = [(1, 7, none), (2, 6, 5), (2, 4, 6), (4, 0, none), (8, 1, 5), (0x10, 7, none), (0x20, 0, none)];
        let translate = |named| match named {
            Named::User(5) => Some(1005),
            Named::Group(5) => Some(2005),
            _ => None,
        };
        let new = [(1, 7, none), (2, 6, 1005), (4, 0, none), (8, 1, 2005), (0x10, 7, none), (0x20, 0, none)];
        assert_eq!(translated(&acl(&old), translate), acl(&new));
        let all: Vec<Named> = named(&acl(&old)).collect();
        assert_eq!(all, [Named::User(5), Named::User(6), Named::Group(5)]);
        for junk in [&b""[..], b"abc"] {
            assert_eq!((translated(junk, translate), named(junk).count()), (junk.to_vec(), 0));
        }
    }
}
