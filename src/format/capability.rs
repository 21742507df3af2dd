//! The value of `security.capability` ([capabilities(7)](https://man7.org/linux/man-pages/man7/capabilities.7.html),
//! `linux/capability.h`): 4 bytes with revision and flags, 16 with the sets; in revision 3 then the user, in 4 bytes, who
//! is root in the user namespaces where they count. All numbers are little-endian.

use std::ffi::CStr;

use super::OverrideKey;

/// The attribute that holds a file's capabilities.
pub const CAPABILITY: &CStr = c"security.capability";
/// The same beside marks of [`OverrideKey::Containers`].
const OVERRIDDEN: &CStr = c"user.containers.override_security.capability";

/// The attribute that holds a file's capabilities in a layer whose owners stand in `owners`.
pub fn capability_key(owners: Option<OverrideKey>) -> &'static CStr {
    if owners == Some(OverrideKey::Containers) { OVERRIDDEN } else { CAPABILITY }
}

const REVISION: u32 = 0xff00_0000;
const REVISION_2: u32 = 0x0200_0000;
const REVISION_3: u32 = 0x0300_0000;
/// Bytes of revision 2.
const LEN_2: usize = 20;

/// A capability with another root user, as `id` says: with revision 2, which has none, that is user 0. `None`: no user
/// is to have it, or the bytes are no capability of either revision.
pub fn translated(value: &[u8], id: impl FnOnce(u32) -> Option<u32>) -> Option<Vec<u8>> {
    let (head, sets) = value.get(..LEN_2)?.split_first_chunk::<4>()?;
    let head = u32::from_le_bytes(*head);
    let root = match (head & REVISION, value.get(LEN_2..)?) {
        (REVISION_2, []) => 0,
        (REVISION_3, root) => u32::from_le_bytes(root.try_into().ok()?),
        _ => return None,
    };
    let root = id(root)?;
    let revision = if root == 0 { REVISION_2 } else { REVISION_3 };
    let mut new = (head & !REVISION | revision).to_le_bytes().to_vec();
    new.extend(sets);
    if root != 0 {
        new.extend(root.to_le_bytes());
    }
    Some(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_user_is_another_one() {
        let value = |head: u32, root: Option<u32>| {
            let mut value = head.to_le_bytes().to_vec();
            value.extend(1..=16);
            value.extend(root.into_iter().flat_map(u32::to_le_bytes));
            value
        };
        let (two, three) = (value(REVISION_2 | 1, None), value(REVISION_3 | 1, Some(7)));
        let to = |new: Option<u32>| move |_| new;
        assert_eq!(translated(&two, |root| (root == 0).then_some(7)), Some(three.clone()));
        assert_eq!(translated(&three, |root| (root == 7).then_some(0)), Some(two.clone()));
        assert_eq!(translated(&three, to(Some(8))), Some(value(REVISION_3 | 1, Some(8))));
        assert_eq!(translated(&two, to(Some(0))), Some(two.clone()));
        assert_eq!(translated(&three, to(None)), None);
        for wrong in [&[][..], &two[..19], &three[..23], &value(REVISION_3, None), &value(0x0100_0000, None)] {
            assert_eq!(translated(wrong, to(Some(0))), None, "{wrong:?}");
        }
    }
}
