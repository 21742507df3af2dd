//! Whose marks are seen, and whose attributes are kept.

use std::os::unix::process::CommandExt;

use super::*;
use crate::common::legs;

/// What a program has set through the kernel's OverlayFS, by names of marks that this does not read, is in each copy.
#[test]
fn what_programs_have_set_through_the_kernel_is_kept() {
    bounded(|| {
        let stack = Stack::new(2);
        stack.lowers[0].file("d/low", "x");
        stack.lowers[1].file("lowest", "x");
        let Some(kernel) = stack.mount_kernel().filter(|_| who() == Who::Root) else {
            return say_skipped("only root's OverlayFS has such names");
        };
        let key = "user.overlay.opaque";
        kernel.write("new", "x").unwrap();
        kernel.append("d/low", "x").unwrap();
        for file in ["d/low", "new"] {
            kernel.set_xattr(file, key, b"a program's").unwrap();
        }
        kernel.set_xattr("d", key, b"y").unwrap();
        drop(kernel);
        let (layers, of) = ([stack.upper().root(), stack.lowers[0].root()], ["d/low", "new", "d"]);
        let seen = |tree: &Tree| of.map(|path| (path, tree.xattr(path, key).map_err(|errno| errno.to_string())));
        let kernel = |layers: &[&Path], options: &str| {
            Kernel::with(&lowerdir(layers, options), &stack.scratch.dir("at")).unwrap()
        };
        let before = seen(&kernel(&layers, ""));
        assert!(before.iter().all(|(_, value)| value.is_ok()), "{before:?}");
        assert_eq!(before[2], ("d", Ok(b"y".to_vec())));
        for (at, words) in [
            &["--marks", "trusted"][..],
            &["--marks", "trusted", "--whiteouts", "xattr"],
            &["--marks", "user"],
            &["--marks", "user", "--flatten", "--lower", layers[1].to_str().unwrap(), "--bottom"],
        ]
        .into_iter()
        .enumerate()
        {
            let out = convert(words, layers[0], &stack.scratch.path().join(format!("out{at}"))).unwrap();
            let options = if words.contains(&"user") { "userxattr" } else { "" };
            assert_eq!(seen(&kernel(&[out.root(), layers[1]], options)), before, "{words:?}");
            let names = view(&stack.scratch, &[out.root(), layers[1]], options);
            assert!(
                names.objects.contains_key(&b"d/low"[..]),
                "{words:?}: the program's attribute is taken for a mark"
            );
        }
        placed::in_place(&["--whiteouts", "xattr"], layers[0]).unwrap();
        assert_eq!(seen(&kernel(&layers, "")), before, "in place");
        let out = stack.scratch.path().join("squashed");
        squashed(&layers, &out);
        assert_eq!(seen(&kernel(&[&out, stack.lowers[1].root()], "")), before, "squashed");
        // Unpacked into a store of a normal user they would be marks.
        let tar = stack.scratch.path().join("tar");
        let words = ["layer", "export", "--tar", tar.to_str().unwrap()];
        let done = Command::new(mount::binary()).args(words).args(layers).output().unwrap();
        let told = String::from_utf8_lossy(&done.stderr).matches("left out: an attribute").count();
        assert_eq!((done.status.code(), told), (Some(4), 3), "exported");
        assert!(copied_up(&layers, "d/low").unwrap().iter().any(|name| name.ends_with(b"overlay.opaque")), "copied up");
    });
}

/// The attributes of the copy of a lower file that plyfs makes.
fn copied_up(layers: &[&Path], file: &str) -> rustix::io::Result<Vec<Vec<u8>>> {
    let above = Stack::new(0);
    let (upper, work) = (above.upper(), above.scratch.dir("work"));
    let dirs = format!("upperdir={},workdir={}", upper.root().display(), work.display());
    let mount = Mount::with(&lowerdir(layers, &dirs), &above.merged, &above.scratch.path().join("log"));
    mount.append(file, "more")?;
    upper.xattrs(file)
}

/// A normal user does not see `trusted.*`, and so would bring back what a layer of root hides.
#[test]
fn a_user_does_not_take_roots_layer_for_one_without_marks() {
    bounded(|| {
        if who() != Who::Root {
            return say_skipped("root makes the layer");
        }
        let stack = Stack::read_only(1);
        let (uid, gid) = legs::user();
        stack.lowers[0].opaque("d").file("d/new", "x").perm("d", 0o755).perm("d/new", 0o644).whiteout("gone");
        let layer = stack.lowers[0].root().to_owned();
        let to = stack.scratch.dir("of-the-user");
        for path in ["d", "d/new", ""] {
            stack.lowers[0].chown(path, uid, gid).unwrap();
        }
        std::os::unix::fs::chown(&to, Some(uid), Some(gid)).unwrap();
        for above in layer.ancestors().take_while(|above| above.starts_with(stack.scratch.path())) {
            std::fs::set_permissions(above, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        }
        let run = |words: &[&str], out: &str| {
            let mut command = Command::new(mount::binary());
            command.args(["layer", "convert", "--marks", "user"]).args(words).arg(&layer).arg(to.join(out));
            let done = command.uid(uid).gid(gid).output().unwrap();
            (done.status.code(), String::from_utf8_lossy(&done.stderr).into_owned())
        };
        let (status, said) = run(&[], "out");
        assert!(status == Some(1) && said.starts_with("plyfs: gone: ") && said.contains("--from user"), "{said}");
        assert_eq!(run(&["--from", "user"], "said"), (Some(0), String::new()));
        // His own whiteouts stand beside his own marks.
        let own = Tree::new(to.join("own"));
        own.mkdir("", 0o755).unwrap();
        own.mknod("gone", rustix::fs::FileType::CharacterDevice, 0, 0).unwrap();
        for path in ["", "gone"] {
            own.chown(path, uid, gid).unwrap();
        }
        let mut command = Command::new(mount::binary());
        command.args(["layer", "convert", "--marks", "user"]).arg(own.root()).arg(to.join("of-own")).uid(uid).gid(gid);
        assert!(command.status().unwrap().success());
    });
}

/// A limit of file sizes is an error with a name, and ends nobody.
#[test]
fn a_limit_of_file_sizes_is_told() {
    bounded(|| {
        let stack = Stack::read_only(1);
        stack.lowers[0].file("large", vec![1; 1 << 20]);
        let out = stack.scratch.path().join("out");
        let program = mount::binary();
        let script = format!("ulimit -f 64; exec '{}' layer \"$@\"", Path::new(&program).display());
        for words in [&["convert", "--marks", "user"][..], &["squash"]] {
            let mut command = Command::new("sh");
            command.args(["-c", &script, "sh"]).args(words).arg(stack.lowers[0].root()).arg(&out);
            let done = command.output().unwrap();
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            assert!(done.status.code() == Some(1) && said.contains("large: ") && said.contains("ulimit -f"), "{said}");
            let left: Vec<_> =
                std::fs::read_dir(stack.scratch.path()).unwrap().map(|at| at.unwrap().file_name()).collect();
            assert!(!left.iter().any(|name| name.to_string_lossy().contains("plyfs-new")), "{left:?}");
        }
    });
}
