//! One operation after the other, and the lines that tell of it.

use rustix::fs::{FileType, RenameFlags, Timespec};

use crate::common::*;
use crate::{diff, lines};

type Fill = fn(&Stack);
type Act = fn(&Tree);

/// What is in the lower layers, what is done in the view, and the changes that are told.
struct Case {
    name: &'static str,
    fill: Fill,
    act: Act,
    told: &'static [&'static str],
}

const fn case(name: &'static str, fill: Fill, act: Act, told: &'static [&'static str]) -> Case {
    Case { name, fill, act, told }
}

/// A directory with files and directories, in the lowest layer.
fn tree(stack: &Stack) {
    let low = &stack.lowers[1];
    low.file("d/a", "12345").file("d/b", "other").file("d/e/deep", "deep").file("top", "top").dir("empty", 0o755);
    low.soft_link("target", "link").perm("d/a", 0o644).perm("top", 0o644);
}

#[rustfmt::skip]
const CASES: &[Case] = &[
    case("nothing", tree, |_| (), &[]),
    case("a file is new", tree, |m| m.write("d/new", "123").unwrap(), &["A d/new >3"]),
    case("a directory is new, with what is in it", tree, |m| {
        m.mkdir("n", 0o755).unwrap();
        m.mkdir("n/o", 0o755).unwrap();
        m.write("n/o/f", "x").unwrap();
        m.symlink("12", "n/l").unwrap();
        m.mknod("n/p", FileType::Fifo, 0o600, 0).unwrap();
    }, &["A n/", "A n/l >2", "A n/o/", "A n/o/f >1", "A n/p"]),
    case("bytes are added", tree, |m| m.append("d/a", "678").unwrap(), &["M d/a 5>8 [data times]"]),
    case("bytes are others", tree, |m| m.pwrite("d/a", 1, b"x").unwrap(), &["M d/a 5>5 [data times]"]),
    case("the same bytes are written", tree, |m| m.pwrite("d/a", 0, b"12345").unwrap(), &["m d/a 5>5 [times]"]),
    case("a file is cut", tree, |m| m.truncate("d/a", 0).unwrap(), &["M d/a 5>0 [data times]"]),
    case("a mode", tree, |m| m.chmod("d/a", 0o700).unwrap(), &["m d/a 5>5 [mode 644>700]"]),
    case("a mode and back", tree, |m| { m.chmod("d/a", 0o700).unwrap(); m.chmod("d/a", 0o644).unwrap(); }, &[]),
    case("a time", tree, |m| m.utimes("d/a", Timespec { tv_sec: 5, tv_nsec: 0 }).unwrap(), &["m d/a 5>5 [times]"]),
    case("an attribute", tree, |m| m.set_xattr("d/a", "user.x", b"1").unwrap(), &["m d/a 5>5 [xattrs]"]),
    case("a mode of a directory", tree, |m| m.chmod("d", 0o700).unwrap(), &["m d/ [mode 755>700]"]),
    case("a time of a directory", tree, |m| m.utimes("d", Timespec { tv_sec: 5, tv_nsec: 0 }).unwrap(), &["m d/ [times]"]),
    case("a file is deleted", tree, |m| m.unlink("d/a").unwrap(), &["D d/a 5>"]),
    case("a new file is deleted", tree, |m| { m.write("x", "").unwrap(); m.unlink("x").unwrap(); }, &[]),
    case("a directory is deleted", tree, |m| m.remove_all("d").unwrap(), &["D d/ 14> files 3"]),
    case("a file is deleted and made anew", tree, |m| { m.unlink("d/a").unwrap(); m.write("d/a", "1").unwrap(); },
        &["M d/a 5>1 [data times]"]),
    case("a directory is deleted and made anew", tree, |m| {
        m.remove_all("d").unwrap();
        m.mkdir("d", 0o755).unwrap();
        m.write("d/b", "new").unwrap();
        m.write("d/c", "").unwrap();
    }, &["D d/a 5>", "M d/b 5>3 [data times]", "A d/c >0", "D d/e/ 4> files 1"]),
    case("an object of another type", tree, |m| {
        m.unlink("top").unwrap();
        m.mkdir("top", 0o755).unwrap();
        m.write("top/f", "1").unwrap();
        m.remove_all("d").unwrap();
        m.write("d", "12").unwrap();
        m.unlink("link").unwrap();
        m.write("link", "12").unwrap();
    }, &["T d from Dir >2", "T link from Symlink 6>2", "T top/ from File 3>", "A top/f >1"]),
    case("a symlink leads elsewhere", tree, |m| { m.unlink("link").unwrap(); m.symlink("other", "link").unwrap(); },
        &["M link 6>5 [data times]"]),
    case("a file is renamed", tree, |m| m.rename("d/a", "z").unwrap(), &["R z (was d/a) 5>5"]),
    case("a file is renamed and changed", tree, |m| { m.rename("d/a", "z").unwrap(); m.append("z", "6").unwrap(); },
        &["R z (was d/a) 5>6 [data times]"]),
    case("a file is changed and renamed", tree, |m| { m.append("d/a", "6").unwrap(); m.rename("d/a", "z").unwrap(); },
        &["R z (was d/a) 5>6 [data times]"]),
    case("a file is renamed to and fro", tree, |m| { m.rename("d/a", "z").unwrap(); m.rename("z", "d/a").unwrap(); },
        &["m d/ [times]"]),
    case("a file is renamed over another", tree, |m| m.rename("d/a", "top").unwrap(),
        &["D d/a 5>", "M top 3>5 [data]"]),
    case("a new file is renamed over another, as editors do", tree, |m| {
        m.write("d/.a.swp", "123456").unwrap();
        m.rename("d/.a.swp", "d/a").unwrap();
    }, &["M d/a 5>6 [data times]"]),
    case("a file has another name", tree, |m| m.link("d/a", "z").unwrap(), &["A z >5"]),
    case("two names, and the first is gone", tree, |m| { m.link("d/a", "z").unwrap(); m.unlink("d/a").unwrap(); },
        &["R z (was d/a) 5>5"]),
];

/// Where directories of the lower layers can be renamed.
#[rustfmt::skip]
const RENAMES: &[Case] = &[
    case("a directory is renamed", tree, |m| m.rename("d", "z").unwrap(), &["R z/ (was d) files 3"]),
    case("a directory is renamed, and things in it change", tree, |m| {
        m.rename("d", "z").unwrap();
        m.append("z/a", "6").unwrap();
        m.unlink("z/b").unwrap();
        m.write("z/e/new", "").unwrap();
    }, &["R z/ (was d) files 3", "M z/a (was d/a) 5>6 [data times]", "D z/b (was d/b) 5>", "A z/e/new >0"]),
    case("into another directory", tree, |m| m.rename("d/e", "empty/x").unwrap(), &["R empty/x/ (was d/e) files 1"]),
    case("to and fro", tree, |m| { m.rename("d", "z").unwrap(); m.rename("z", "d").unwrap(); }, &[]),
    case("twice", tree, |m| { m.rename("d", "y").unwrap(); m.rename("y", "z").unwrap(); }, &["R z/ (was d) files 3"]),
    case("out of a renamed one", tree, |m| { m.rename("d", "z").unwrap(); m.rename("z/e", "y").unwrap(); },
        &["R y/ (was d/e) files 1", "R z/ (was d) files 2"]),
    case("out of one that is deleted", tree, |m| { m.rename("d/e", "y").unwrap(); m.remove_all("d").unwrap(); },
        &["D d/ 14> files 3", "R y/ (was d/e) files 1"]),
    case("and another is made in its place", tree, |m| {
        m.rename("d", "z").unwrap();
        m.mkdir("d", 0o755).unwrap();
        m.write("d/a", "new").unwrap();
    }, &["A d/", "A d/a >3", "R z/ (was d) files 3"]),
    case("and a file in its place", tree, |m| { m.rename("d", "z").unwrap(); m.write("d", "1").unwrap(); },
        &["A d >1", "R z/ (was d) files 3"]),
    case("over an empty one", tree, |m| m.rename("d", "empty").unwrap(), &["D empty/ 0> files 0", "R empty/ (was d) files 3"]),
    case("two change places", tree, |m| m.rename_with("d", "empty", RenameFlags::EXCHANGE).unwrap(),
        &["R d/ (was empty) files 0", "R empty/ (was d) files 3"]),
    case("into the one that stands in its old place", tree, |m| {
        m.rename("d", "z").unwrap();
        m.mkdir("d", 0o755).unwrap();
        m.rename("z", "d/z").unwrap();
    }, &["A d/", "R d/z/ (was d) files 3"]),
    case("a file out of a renamed directory", tree, |m| { m.rename("d", "z").unwrap(); m.rename("z/a", "y").unwrap(); },
        &["R y (was d/a) 5>5", "R z/ (was d) files 2"]),
    case("a mode of a renamed directory", tree, |m| { m.rename("d", "z").unwrap(); m.chmod("z", 0o700).unwrap(); },
        &["R z/ (was d) files 3 [mode 755>700]"]),
    case("one that several layers have", |s| { tree(s); s.lowers[0].file("d/a", "top").file("d/f", ""); },
        |m| m.rename("d", "z").unwrap(), &["R z/ (was d) files 4"]),
];

/// Runs the cases with these options; each is told beside the daemon, and again without it.
fn run(cases: &[Case], options: &str) {
    for Case { name, fill, act, told } in cases {
        let mut stack = Stack::new(2);
        if !options.is_empty() {
            stack = stack.option(options);
        }
        fill(&stack);
        stack.age();
        let mut mount = stack.mount();
        act(&mount);
        assert_eq!(lines(&diff(&stack)), *told, "{name}, with {options:?}, beside the daemon");
        mount.unmount();
        let before = view::layer(stack.upper().root());
        assert_eq!(lines(&diff(&stack)), *told, "{name}, with {options:?}");
        view::layer(stack.upper().root()).assert_same(&before, "the upper layer was changed");
    }
}

#[test]
fn each_change_is_one_line() {
    within(240, || run(CASES, ""));
}

#[test]
fn each_change_is_one_line_where_all_is_copied() {
    within(240, || run(CASES, "redirect_dir=off,metacopy=off,index=off"));
}

#[test]
fn each_change_is_one_line_where_owners_are_attributes() {
    within(240, || run(CASES, "xattr_permissions=2"));
}

#[test]
fn a_renamed_directory_is_one_line() {
    within(240, || run(RENAMES, ""));
}

#[test]
fn whiteouts_of_each_form_are_deletions() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].file("a", "1").file("d/b", "22").file("d/c", "").file("o/x", "").file("o/y", "1");
        let (upper, prefix) = (stack.upper(), stack::prefix());
        upper.dir("d", 0o755).with_xattr("d", &format!("{prefix}opaque"), b"x");
        upper.file("d/b", "").with_xattr("d/b", &format!("{prefix}whiteout"), b"");
        upper.file(".wh.a", "").file("o/.wh..wh..opq", "").file("o/y", "2").file("d/.wh.none", "");
        stack.age();
        let told = ["D a 1>", "D d/b 2>", "D o/x 0>", "M o/y 1>1 [data]"];
        assert_eq!(lines(&diff(&stack)), told, ".wh. and attributes");
        let stack = Stack::new(1);
        stack.lowers[0].file("a", "1").file("d/b", "22").file("o/x", "").file("o/y", "1");
        stack.upper().whiteout("a").whiteout("d/b").whiteout("nothing").opaque("o").file("o/y", "1");
        stack.age();
        assert_eq!(lines(&diff(&stack)), ["D a 1>", "D d/b 2>", "D o/x 0>"], "devices");
    });
}

#[test]
fn a_view_in_use_can_be_told() {
    within(120, || {
        let stack = Stack::new(1);
        for number in 0..50 {
            stack.lowers[0].file(&format!("d{}/f{number}", number % 5), "x");
        }
        stack.age();
        let mount = stack.mount();
        let end = std::sync::atomic::AtomicBool::new(false);
        let ended = || end.load(std::sync::atomic::Ordering::Relaxed);
        let times = std::thread::scope(|scope| {
            scope.spawn(|| {
                for number in (0..50).cycle().take_while(|_| !ended()) {
                    let (dir, path) = (format!("d{}", number % 5), format!("d{}/f{number}", number % 5));
                    let _ = mount.rename(&path, "moved");
                    let _ = mount.write(&path, "new");
                    let _ = mount.remove_all("moved");
                    let _ = mount.rename(&dir, "e");
                    let _ = mount.mkdir(&dir, 0o755);
                    let _ = mount.rename_with(&dir, "e", RenameFlags::EXCHANGE);
                    let _ = mount.remove_all("e");
                }
            });
            let begin = std::time::Instant::now();
            let mut times = 0;
            while begin.elapsed().as_secs() < 3 {
                let told = diff(&stack);
                if !told.troubles.is_empty() {
                    end.store(true, std::sync::atomic::Ordering::Relaxed);
                    panic!("{:?}", told.troubles);
                }
                times += 1;
            }
            end.store(true, std::sync::atomic::Ordering::Relaxed);
            times
        });
        assert!(times > 10, "{times}");
    });
}
