//! A daemon whose system calls are filtered, as in containers: newer calls answer EPERM or ENOSYS.

use crate::common::scratch::Mounted;
use crate::common::*;
use crate::{Ran, not_here};

// The same on all architectures but alpha and mips.
const XATTRAT: [libc::c_long; 4] = [463, 464, 465, 466];

/// Calls that are newer than some filters.
pub const MODERN: [libc::c_long; 12] = [
    libc::SYS_openat2,
    libc::SYS_fchmodat2,
    XATTRAT[0],
    XATTRAT[1],
    XATTRAT[2],
    XATTRAT[3],
    libc::SYS_open_tree,
    libc::SYS_mount_setattr,
    libc::SYS_close_range,
    libc::SYS_faccessat2,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
];

/// statx(2) besides, which the first filters of Docker did not know.
pub const OLD: [libc::c_long; 14] = {
    let mut all = [libc::SYS_statx; 14];
    let mut i = 0;
    while i < MODERN.len() {
        all[i] = MODERN[i];
        i += 1;
    }
    all[13] = libc::SYS_copy_file_range;
    all
};

/// A bit of everything, on layers with a way out of each kind.
fn story(calls: &[libc::c_long], errno: i32) {
    let stack = Stack::new(2);
    stack.lowers[0].file("d/f", "f").file("d/g", "g").soft_link("/etc", "way").soft_link("..", "d/up").fifo("p");
    stack.lowers[1].file("way/passwd", "below").file("d/h", "h").dir("covered", 0o755).file("r/f", "x");
    let before: Vec<View> = stack.lowers.iter().map(|layer| view::layer(layer.root())).collect();
    let foreign = Mounted::tmpfs(&stack.lowers[1].at("covered"));
    if foreign.is_some() {
        stack.lowers[1].file("covered/foreign", "x");
    }
    deny_calls(calls, errno);
    let mut mount = stack.mount();
    mount.append("d/f", "+").unwrap();
    mount.chmod("d/g", 0o600).unwrap();
    mount.chmod("p", 0o600).unwrap();
    mount.set_xattr("d/g", "user.a", b"1").unwrap();
    mount.utimes("d/up", tree::OLD).unwrap();
    mount.unlink("d/h").unwrap();
    mount.rename("r", "r2").unwrap();
    mount.mkdir("r", 0o755).unwrap();
    mount.write("r/new", "new").unwrap();
    for _ in 0..2 {
        assert_eq!(mount.names("").unwrap(), ["covered", "d", "p", "r", "r2", "way"]);
        assert_eq!(
            (mount.names("d").unwrap(), mount.text("d/f")),
            (vec!["f".into(), "g".into(), "up".into()], "f+".into())
        );
        assert_eq!(
            (mount.mode("d/g"), mount.mode("p"), mount.xattr("d/g", "user.a")),
            (0o600, 0o600, Ok(b"1".to_vec()))
        );
        assert_eq!((mount.text("r2/f"), mount.names("r").unwrap()), ("x".into(), vec!["new".to_owned()]));
        assert_eq!(mount.readlink("way").unwrap(), b"/etc");
        let names = mount.names("covered");
        assert!(names == Ok(vec![]) || names == Err(Errno::XDEV), "{names:?}");
        View::of(&mount, Walk::default()).assert_sound();
        mount.remount();
    }
    drop(mount);
    drop(foreign);
    for (layer, before) in stack.lowers.iter().zip(&before) {
        view::layer(layer.root()).assert_same(before, "a lower layer");
    }
}

fn story_without(calls: &[libc::c_long]) -> Ran {
    if who() == Who::User {
        return not_here("a filter would keep fusermount3 from its rights");
    }
    for errno in [libc::EPERM, libc::ENOSYS] {
        let calls = calls.to_vec();
        // The filter stays with its thread.
        within(60, move || story(&calls, errno));
    }
    Ok(())
}

pub fn a_daemon_without_openat2_and_what_came_later() -> Ran {
    story_without(&MODERN)
}

pub fn a_daemon_without_statx_and_copy_file_range() -> Ran {
    story_without(&OLD)
}
