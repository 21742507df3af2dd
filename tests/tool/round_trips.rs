//! `plyfs layer export` and `import` one after the other: what each kind of upper layer keeps in its own way is again what the
//! view has shown.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::stack::Layer;
use crate::common::view::Numbers;
use crate::common::*;

const MIB: usize = 1 << 20;

/// A command that must succeed; what it prints.
fn done(command: &mut Command) -> String {
    let out = command.output().unwrap();
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

fn layer(words: &[&str]) -> String {
    done(Command::new(mount::binary()).arg("layer").args(words))
}

/// A tree without inode numbers. Link counts are compared by which names are one file.
fn seen(root: &Path) -> View {
    let walk = |without_links| Walk { times: true, numbers: Numbers::NotJudged, without_links, ..Walk::default() };
    View { same: View::of(&Tree::new(root), walk(false)).same, ..View::of(&Tree::new(root), walk(true)) }
}

/// Exports a view, imports the image, mounts that, and looks at both.
fn there_and_back(stack: &Stack, what: &str) {
    let at = |name: &str| stack.scratch.path().join(name);
    let (image, layers) = (at("image"), at("layers"));
    layer(&["export", "--oci", image.to_str().unwrap(), stack.merged.to_str().unwrap()]);
    let list = layer(&["import", "--print-lowerdir", image.to_str().unwrap(), layers.to_str().unwrap()]);
    std::fs::write(at("list"), list).unwrap();
    let again = stack.scratch.fresh("again");
    let _mount = Mount::with(&format!("lowerdir=@{}", at("list").display()), &again, &at("log-again"));
    seen(&stack.merged).assert_same(&seen(&again), what);
}

type Fill = fn(&Layer);
type Act = fn(&Mount);

#[test]
fn what_an_upper_layer_keeps_in_its_own_way_comes_back() {
    bounded(|| {
        let big: Fill = |layer| _ = layer.file("big", vec![b'x'; 3 * MIB]).file("d/big", vec![b'y'; 2 * MIB + 5]);
        let names: Fill = |layer| {
            layer.file("d/one", vec![b'x'; 40_000]).hard_link("d/one", "d/two").file("d/other", "o");
        };
        let table: [(&str, &str, Fill, Act); 5] = [
            ("blocks that are still below", "copyup_block=64K,copyup_rate=0", big, |m| {
                m.pwrite("big", MIB as u64, b"changed").unwrap();
                m.pwrite("d/big", 2 * MIB as u64, b"end").unwrap();
                let _ = m.rename("d", "e");
            }),
            ("owners in attributes", "xattr_permissions=2", big, |m| {
                m.chmod("big", 0o4750).unwrap();
                m.mknod("fifo", rustix::fs::FileType::Fifo, 0o640, 0).unwrap();
                m.symlink("big", "link").unwrap();
                m.mkdir("new", 0o2771).unwrap();
                m.write("new/file", "x").unwrap();
                if who() == Who::Root {
                    m.chown("new/file", 12, 13).unwrap();
                    m.mknod("null", rustix::fs::FileType::CharacterDevice, 0o666, 0x103).unwrap();
                }
            }),
            (
                "only metadata, and holes",
                "",
                |layer| {
                    layer.file("hole", "").pwrite("hole", 9 * MIB as u64, b"end").unwrap();
                },
                |m| {
                    m.chmod("hole", 0o600).unwrap();
                    m.rename("hole", "elsewhere").unwrap();
                },
            ),
            ("hard links in a renamed directory", "", names, |m| {
                let _ = m.rename("d", "e");
                let dir = if m.has("e") { "e" } else { "d" };
                m.chmod(format!("{dir}/one"), 0o600).unwrap();
                m.link(format!("{dir}/other"), "third").unwrap();
            }),
            ("an index", "", names, |m| m.append("d/two", "more").unwrap()),
        ];
        for (what, options, fill, act) in table {
            if options.split(',').any(|option| !option.is_empty() && !mount::takes(option)) {
                say_skipped(what);
                continue;
            }
            let stack = Stack::new(1).option(options);
            fill(&stack.lowers[0]);
            stack.age();
            let mount = stack.mount();
            act(&mount);
            there_and_back(&stack, what);
        }
    });
}

#[test]
fn acls_capabilities_and_attributes_come_back() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].file("acl", "x").dir("dir", 0o755).file("caps", "x").file("user", "x");
        stack.age();
        let mount = stack.mount();
        let tool =
            |words: &[&str]| Command::new(words[0]).args(&words[1..]).status().is_ok_and(|status| status.success());
        let at = |name: &str| mount.at(name).into_os_string().into_string().unwrap();
        let mut made = mount.set_xattr("user", "user.a", b"a\0\n=%").is_ok();
        if who() != Who::Namespace {
            made &= tool(&["setfacl", "-m", "u:12:r,g:7:rw", &at("acl")]);
            made &= tool(&["setfacl", "-d", "-m", "u:12:rwx", &at("dir")]);
        }
        if who() == Who::Root {
            made &= tool(&["setcap", "cap_net_raw+ep", &at("caps")]);
        }
        assert!(made, "what is to be compared is not there");
        there_and_back(&stack, "attributes");
    });
}

/// What a store of a rootless podman has: ids are mapped, and whoever is in the user namespace sees them mapped back.
#[test]
fn a_view_with_mapped_ids_is_exported_with_those_of_its_layers() {
    bounded(|| {
        if who() != Who::Root {
            skip!("only root shows other users' ids");
        }
        let stack = Stack::new(1).option("uidmapping=0:100000:1000,gidmapping=0:200000:1000");
        stack.lowers[0].file("f", "x").chown("f", 5, 6).unwrap();
        let mount = stack.mount();
        mount.chown("f", 100_007, 200_008).unwrap();
        let archive = stack.scratch.path().join("a.tar");
        layer(&["export", "--tar", archive.to_str().unwrap(), stack.merged.to_str().unwrap()]);
        let told = done(Command::new("tar").args(["--numeric-owner", "-tvf"]).arg(&archive));
        assert!(told.lines().any(|line| line.contains(" 7/8 ") && line.ends_with(" f")), "{told}");
    });
}

#[test]
fn a_deleted_secret_is_told_by_du_and_in_no_byte_of_the_archive() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0]
            .file("etc/key", "SECRET-1".repeat(2000))
            .file("etc/conf", "SECRET-2")
            .file("home/SECRET-3", "x");
        let mut mount = stack.mount();
        mount.unlink("etc/key").unwrap();
        mount.write("etc/conf", "public").unwrap();
        mount.remove_all("home").unwrap();
        mount.unmount();
        let [upper, lower] = [stack.upper().root(), stack.lowers[0].root()].map(|path| path.to_str().unwrap());
        let told = layer(&["du", "--top", "9", "-o", &format!("lowerdir={upper}:{lower}")]);
        for line in ["deleted", "etc/key", "home/SECRET-3"] {
            assert!(told.contains(line), "{line}: {told}");
        }
        let (archive, out) = (stack.scratch.path().join("a.tar"), stack.scratch.path().join("out"));
        let has_secret = |path: &Path| {
            let bytes = std::fs::read(path).unwrap();
            bytes.windows(6).any(|part| part == b"SECRET")
        };
        // The name of the directory is deleted, and what was in it is not told.
        for words in [&["--merged", upper, lower][..], &[upper, lower]] {
            layer(&[&["export", "--tar", archive.to_str().unwrap()], words].concat());
            assert!(!has_secret(&archive), "{words:?}");
        }
        layer(&["squash", upper, lower, out.to_str().unwrap()]);
        layer(&["export", "--tar", archive.to_str().unwrap(), out.to_str().unwrap()]);
        assert!(!has_secret(&archive));
        layer(&["export", "--tar", archive.to_str().unwrap(), lower]);
        assert!(has_secret(&archive), "the search finds nothing");
    });
}

#[test]
fn an_image_has_zeros_for_holes_and_its_import_holes_again() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].file("hole", "").pwrite("hole", 8 * MIB as u64 + 77, b"end").unwrap();
        stack.lowers[0].file("zeros", vec![0; 300_000]).file("empty", "");
        stack.age();
        let _mount = stack.mount();
        there_and_back(&stack, "holes");
        let image = stack.scratch.path().join("image/blobs/sha256");
        let image =
            std::fs::read_dir(image).unwrap().map(|entry| std::fs::metadata(entry.unwrap().path()).unwrap().len());
        assert!(image.sum::<u64>() < 64 << 10, "zeros take room");
        let layers = std::fs::read_dir(stack.scratch.path().join("layers")).unwrap();
        let layer = layers.map(|entry| entry.unwrap().path()).find(|path| path.join("hole").exists()).unwrap();
        for name in ["hole", "zeros"] {
            let blocks = Tree::new(&layer).stat(name).unwrap().st_blocks;
            assert!(blocks <= 256, "{name}: {blocks}");
        }
    });
}

#[test]
fn an_output_that_takes_no_more_ends_an_export_in_one_line() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].file("big", vec![b'x'; 9 * MIB]);
        let root = stack.lowers[0].root().to_str().unwrap();
        for (to, expected) in [("-", "(the archive is not whole)"), ("/dev/full", "No space left")] {
            let mut command = Command::new(mount::binary());
            command.args(["layer", "export", "--tar", to, root]).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = command.spawn().unwrap();
            drop(child.stdout.take());
            let out = child.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&out.stderr);
            assert_eq!((out.status.code(), said.lines().count()), (Some(1), 1), "{to}: {said}");
            assert!(said.contains(expected), "{to}: {said}");
        }
    });
}
