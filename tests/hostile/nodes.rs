//! Fifos, sockets, devices, and what is closed to its owner.

use std::os::fd::OwnedFd;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::fs::{FileType, OFlags, makedev};

use crate::Ran;
use crate::common::*;

/// The nodes of a layer: a fifo nobody writes to, a socket nobody listens at, devices with a driver and without.
fn nodes(layer: &stack::Layer) -> Vec<&'static str> {
    layer.dir("n", 0o755).fifo("n/fifo");
    layer.mknod("n/socket", FileType::Socket, 0o644, 0).unwrap();
    let mut names = vec!["fifo", "socket"];
    let devices = [
        ("null", FileType::CharacterDevice, makedev(1, 3)),
        ("tty", FileType::CharacterDevice, makedev(5, 0)),
        ("none", FileType::CharacterDevice, makedev(240, 77)),
        ("disk", FileType::BlockDevice, makedev(240, 77)),
    ];
    for (name, kind, device) in devices {
        if layer.mknod(format!("n/{name}"), kind, 0o666, device).is_ok() {
            names.push(name);
        }
    }
    names
}

/// Watches a directory for openings of what is in it; `O_PATH` is none.
fn watch(dirs: &[std::path::PathBuf]) -> OwnedFd {
    let watcher = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap();
    for dir in dirs {
        inotify::add_watch(&watcher, dir, WatchFlags::OPEN).unwrap();
    }
    watcher
}

/// The names that were opened, but for those of directories.
fn opened(watcher: &OwnedFd) -> Vec<String> {
    let mut room = [std::mem::MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(watcher, &mut room);
    let mut names = Vec::new();
    while let Ok(event) = reader.next() {
        if let Some(name) = event.file_name().filter(|_| !event.events().contains(ReadFlags::ISDIR)) {
            names.push(name.to_string_lossy().into_owned());
        }
    }
    names
}

/// Everything that can be done to a node without opening it.
fn handle(mount: &Tree, name: &str) {
    let path = format!("n/{name}");
    let of = |other: &str| format!("n/{name}-{other}");
    let me = mount.stat("n").unwrap();
    mount.chmod(&path, 0o640).unwrap();
    mount.chown(&path, me.st_uid, me.st_gid).unwrap();
    mount.utimes(&path, tree::OLD).unwrap();
    mount.link(&path, of("link")).unwrap();
    mount.rename(&path, of("moved")).unwrap();
    mount.unlink(of("link")).unwrap();
    if who() == Who::Root {
        mount.set_xattr(of("moved"), "trusted.a", b"1").unwrap();
        assert_eq!(mount.xattrs(of("moved")).unwrap(), [b"trusted.a".to_vec()]);
    }
    // What is left to open is opened without waiting: that is the kernel's affair, the daemon hears nothing of it.
    drop(mount.open(of("moved"), OFlags::RDONLY | OFlags::NONBLOCK));
}

/// fo1: EIO for the chmod of a fifo.
pub fn nodes_of_a_lower_layer_are_handled_and_never_opened() -> Ran {
    let stack = Stack::new(1);
    let names = nodes(&stack.lowers[0]);
    stack.upper().dir("n", 0o755);
    let mut mount = stack.mount();
    let watcher = watch(&[stack.lowers[0].at("n"), stack.upper().at("n"), stack.scratch.path().join("work/work")]);
    let kinds: Vec<_> = names.iter().map(|name| mount.stat(format!("n/{name}")).unwrap()).collect();
    names.iter().for_each(|name| handle(&mount, name));
    for (name, before) in names.iter().zip(kinds) {
        let st = mount.stat(format!("n/{name}-moved")).unwrap();
        assert_eq!((st.st_mode & 0o7777, st.st_rdev, st.st_mtime), (0o640, before.st_rdev, tree::OLD.tv_sec), "{name}");
        assert_eq!(FileType::from_raw_mode(st.st_mode), FileType::from_raw_mode(before.st_mode), "{name}");
    }
    let mut left: Vec<_> = names.iter().map(|name| format!("{name}-moved")).collect();
    left.sort();
    assert_eq!(mount.names("n").unwrap(), left);
    mount.remount();
    assert_eq!(mount.names("n").unwrap(), left);
    View::of(&mount, Walk::default()).assert_sound();
    left.iter().for_each(|name| mount.unlink(format!("n/{name}")).unwrap());
    let mut opened = opened(&watcher);
    opened.retain(|name| !name.starts_with("#probe")); // a file
    assert_eq!(opened, [""; 0], "opened by the daemon");
    Ok(())
}

/// Two clients talk through a fifo and a socket of the view; the daemon serves others meanwhile.
pub fn a_fifo_without_a_writer_holds_up_its_reader_only() -> Ran {
    let stack = Stack::new(1);
    stack.lowers[0].fifo("fifo").file("f", "x");
    let mount = stack.mount();
    let path = mount.at("fifo");
    let reader = std::thread::spawn(move || std::fs::read(path).unwrap());
    std::thread::sleep(std::time::Duration::from_millis(50));
    mount.append("f", "y").unwrap();
    mount.chmod("fifo", 0o600).unwrap();
    mount.rename("fifo", "moved").unwrap();
    assert!(!reader.is_finished());
    std::fs::write(mount.at("moved"), "through").unwrap();
    assert_eq!((reader.join().unwrap(), mount.text("f")), (b"through".to_vec(), "xy".into()));
    Ok(())
}

/// fo1 and fo2, as a normal user: no search through 0311, no removal of a file of mode 000.
pub fn what_is_closed_to_the_daemon_is_closed_to_the_caller() -> Ran {
    if who() == Who::Root {
        return crate::not_here("root's daemon and root read everything");
    }
    // In a user namespace its root may read what is its own.
    let read = |path: &str, mount: &Mount| if who() == Who::User { mount.read(path) } else { Err(Errno::ACCESS) };
    let stack = Stack::new(1);
    let lower = &stack.lowers[0];
    for name in ["removed", "renamed", "linked", "opened", "kept"] {
        lower.file(name, name).perm(name, 0);
    }
    lower.file("search/f", "x").file("search/gone", "x").file("dark/f", "x").dir("empty", 0o755);
    lower.file("listed/f", "x").dir("shut", 0o755).file("ajar/f", "x");
    let modes = [("search", 0o311), ("dark", 0), ("empty", 0o311), ("listed", 0o444), ("shut", 0), ("ajar", 0o444)];
    modes.iter().for_each(|(dir, mode)| _ = lower.perm(dir, *mode));
    let mut mount = stack.mount();
    for path in ["kept", "renamed"] {
        assert_eq!(read(path, &mount), Err(Errno::ACCESS), "{path}");
    }
    mount.unlink("removed").unwrap();
    mount.rename("renamed", "moved").unwrap();
    mount.link("linked", "linked2").unwrap();
    // What the daemon cannot read below gets no permission to be read.
    let opened = if who() == Who::User { Err(Errno::ACCESS) } else { Ok(()) };
    assert_eq!(mount.chmod("opened", 0o600), opened);
    assert_eq!(mount.text("search/f"), "x");
    mount.unlink("search/gone").unwrap();
    mount.append("search/f", "y").unwrap();
    mount.rename("search", "search2").unwrap();
    mount.rename("dark", "dark2").unwrap();
    assert_eq!(mount.names("listed").unwrap(), ["f"], "the right to read a directory is enough to list it");
    for (dir, mode) in [("shut", 0o711), ("ajar", 0o700)] {
        mount.utimes(dir, tree::OLD).unwrap();
        assert_eq!(mount.xattrs(dir).unwrap(), [b""; 0]);
        mount.chmod(dir, 0).unwrap();
        assert_eq!(mount.chmod(dir, mode), opened, "{dir}");
        let mode = if opened.is_ok() { mode } else { 0 };
        assert_eq!((mount.mode(dir), mount.stat(dir).unwrap().st_mtime), (mode, tree::OLD.tv_sec), "{dir}");
    }
    if who() == Who::User {
        assert_eq!((mount.names("search2"), mount.names("dark2")), (Err(Errno::ACCESS), Err(Errno::ACCESS)));
        assert_eq!(mount.stat("dark2/f").map(drop), Err(Errno::ACCESS));
        let full = mount.rmdir("search2");
        assert!(full == Err(Errno::NOTEMPTY) || full == Err(Errno::ACCESS), "{full:?}");
    }
    for _ in 0..2 {
        assert_eq!((mount.mode("moved"), mount.mode("search2"), mount.mode("dark2")), (0, 0o311, 0));
        assert_eq!((mount.text("search2/f"), mount.has("search2/gone")), ("xy".into(), false));
        assert_eq!(read("moved", &mount), Err(Errno::ACCESS));
        assert_eq!(mount.stat("linked").unwrap().st_ino, mount.stat("linked2").unwrap().st_ino);
        mount.remount();
    }
    for path in ["moved", "linked", "linked2", "opened", "kept"] {
        mount.unlink(path).unwrap();
    }
    drop(mount);
    // So that they can be removed.
    for (layer, dirs) in [(lower, "search dark empty listed shut ajar"), (stack.upper(), "search2 dark2")] {
        dirs.split(' ').for_each(|dir| _ = layer.chmod(dir, 0o755));
    }
    Ok(())
}
