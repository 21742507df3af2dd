//! One thing after the other is missing.

use plyfs::testing::newer::{Newer, Without};
use rustix::fs::{FileType, RenameFlags};

use crate::common::*;
use crate::mount_without;

/// Lower layers with something of each sort.
fn stack() -> Stack {
    let stack = Stack::new(2);
    let [top, bottom] = [&stack.lowers[0], &stack.lowers[1]];
    top.file("d/f", "from the top").file("d/sub/deep", "deep").soft_link("d/f", "link");
    bottom.file("d/g", "from the bottom").file("gone/x", "x").file("h1", "one file").hard_link("h1", "h2");
    bottom.file("big", vec![7; 300_000]).dir("closed", 0o755).file("closed/y", "y").fifo("pipe");
    top.file("over", "new").whiteout("gone/x");
    bottom.dir("over/was", 0o755).file("many/0", "");
    (1..300).for_each(|n| _ = bottom.file(&format!("many/{n}"), ""));
    stack.age();
    stack
}

/// A little of everything that programs do.
fn story(view: &Mount) -> Vec<String> {
    let mut said = vec![format!("{:?}", view.names("").unwrap()), view.text("d/f"), view.text("d/g")];
    said.push(view.names("many").unwrap().len().to_string());
    view.write("new", "made here").unwrap();
    view.append("d/f", " and more").unwrap();
    view.pwrite("big", 150_000, b"changed").unwrap();
    view.append("h1", " changed").unwrap();
    said.push(view.text("h2"));
    view.chmod("d/g", 0o4711).unwrap();
    view.mkdir("dir", 0o750).unwrap();
    view.rename("d", "dir/moved").unwrap();
    view.link("new", "dir/other").unwrap();
    view.symlink("x", "dir/symlink").unwrap();
    view.mknod("dir/fifo", FileType::Fifo, 0o600, 0).unwrap();
    view.unlink("many/7").unwrap();
    view.remove_all("closed").unwrap();
    view.mkdir("closed", 0o700).unwrap();
    view.write("closed/z", "z").unwrap();
    said.push(format!("{:?}", view.rename_with("new", "closed", RenameFlags::NOREPLACE)));
    if view.rename_with("new", "closed", RenameFlags::EXCHANGE) == Err(Errno::INVAL) {
        // There is no way to do that at once.
        for (from, to) in [("new", "aside"), ("closed", "new"), ("aside", "closed")] {
            view.rename(from, to).unwrap();
        }
    }
    said.push(format!("{:?}", view.truncate("over", 1)));
    said.push(format!("{:?}", view.set_xattr("over", "user.mine", b"value")));
    said.push(format!("{:?} {:?}", view.xattr("over", "user.mine"), view.readlink("link")));
    said.push(view.names("many").unwrap().len().to_string());
    said
}

/// What was said, and what the view shows before and after a remount.
fn told(words: &str) -> (Vec<String>, View, View) {
    let stack = stack();
    let walk = Walk { numbers: view::Numbers::default(), ..Walk::default() };
    let mut mount = mount_without(&stack, words, "");
    let said = story(&mount);
    let before = View::of(&mount, walk);
    mount.remount();
    (said, before, View::of(&mount, walk))
}

#[test]
fn each_newer_call_and_ability_can_be_missing_and_so_can_all() {
    within(300, || {
        let expected = told("");
        assert!(expected.1.wrong.is_empty(), "{:?}", expected.1.wrong);
        for word in Newer::ALL.iter().map(|newer| newer.row().word).chain(["all"]) {
            let told = told(word);
            assert_eq!(told.0, expected.0, "without {word}");
            assert_eq!(told.1, expected.1, "without {word}");
            assert_eq!(told.2, expected.2, "without {word}, mounted again");
        }
    });
}

#[test]
fn a_directory_is_listed_and_what_is_missing_is_said_where_the_kernel_asks_at_each_open() {
    bounded(|| {
        let stack = stack();
        let mount = mount_without(&stack, "no-opendir,no-open,posix-acl", "");
        // Each one asked for anew: a kernel that was answered ENOSYS once asks no more, and here that would be an error.
        for _ in 0..3 {
            assert_eq!(mount.names("many").unwrap().len(), 300);
            assert_eq!(mount.text("d/f"), "from the top");
        }
        mount.write("many/new", "").unwrap();
        assert_eq!(mount.names("many").unwrap().len(), 301);
        let said = mount.messages();
        assert!(said.contains("FUSE_POSIX_ACL") && said.contains("4.9"), "{said}");
    });
}

/// `PLYFS_UPDATE_DOCS=1 cargo test --test kernels` writes the table anew.
#[test]
fn the_table_of_what_is_newer_stands_in_the_docs() {
    const START: &str = "<!-- newer -->\n";
    const END: &str = "<!-- /newer -->";
    let mut rows: Vec<_> = Newer::ALL.iter().map(|newer| newer.row()).collect();
    let number = |part: &str| part.parse::<u32>().unwrap();
    rows.sort_by_key(|row| row.since.split_once('.').map(|(major, minor)| (number(major), number(minor))));
    let line = |row: &plyfs::testing::newer::Row| {
        let (Without::Otherwise(how) | Without::Less(how)) = row.without;
        format!("| {} | {} | `{}` | {how} |\n", row.since, row.name, row.word)
    };
    let head = "| Linux | brought | word | without it |\n|---|---|---|---|\n".to_owned();
    let table = rows.iter().fold(head, |table, row| table + &line(row));
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/kernels.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(START).unwrap();
    let (listed, after) = rest.split_once(END).unwrap();
    if std::env::var_os("PLYFS_UPDATE_DOCS").is_some() {
        std::fs::write(&path, format!("{before}{START}{table}{END}{after}")).unwrap();
    } else {
        assert!(listed == table, "run PLYFS_UPDATE_DOCS=1 cargo test --test kernels");
    }
}
