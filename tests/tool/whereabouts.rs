//! `plyfs where`: each object is found in the layers that give it.

use std::path::Path;
use std::process::Command;

use crate::common::*;

/// What is printed, with short names for the layers.
fn told(stack: &Stack, args: &[&str]) -> String {
    let out = Command::new(mount::binary()).arg("where").args(args).current_dir(&stack.merged).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    text.replace(&format!("{}/", stack.scratch.path().display()), "")
}

#[test]
fn each_part_of_an_object_is_found_in_its_layer() {
    bounded(|| {
        let stack = Stack::new(2);
        let [top, low] = [&stack.lowers[0], &stack.lowers[1]];
        low.file("conf", "low").file("dir/f", "1").file("dir/g", "2").file("gone", "x").file("old/x", "3");
        low.file("meta", "data").file("two/a", "").dir("opaque", 0o755).file("opaque/f", "");
        top.file("conf", "top").file("dir/h", "4").file("two", "");
        let mount = stack.mount();
        mount.append("conf", "!").unwrap();
        mount.chmod("meta", 0o600).unwrap();
        mount.unlink("gone").unwrap();
        mount.rename("old", "new").unwrap();
        mount.remove_all("opaque").unwrap();
        mount.mkdir("opaque", 0o755).unwrap();
        mount.write("fresh", "").unwrap();
        for (path, expected) in [
            (
                "conf",
                "conf  0 upper  upper/conf   metadata, data\n      1 lower  lower0/conf  hidden by 0 (object)\n      2 lower  lower1/conf  hidden by 0 (object)\n",
            ),
            ("meta", "meta  0 upper  upper/meta   metadata (metacopy)\n      2 lower  lower1/meta  data\n"),
            ("gone", "gone  0 upper  upper/gone   (whiteout)\n      2 lower  lower1/gone  hidden by 0 (whiteout)\n"),
            ("dir", "dir  1 lower  lower0/dir  metadata, listing\n     2 lower  lower1/dir  listing\n"),
            ("dir/f", "dir/f  2 lower  lower1/dir/f  metadata, data\n"),
            ("new", "new  0 upper  upper/new   metadata, listing (redirect=old)\n     2 lower  lower1/old  listing\n"),
            ("new/x", "new/x  2 lower  lower1/old/x  metadata, data\n"),
            ("old/x", "old/x  2 lower  lower1/old/x  hidden by what is at a directory above\n"),
            ("two/a", "two/a  2 lower  lower1/two/a  hidden by what is at a directory above\n"),
            (
                "opaque",
                "opaque  0 upper  upper/opaque   metadata, listing\n        2 lower  lower1/opaque  hidden by 0 (opaque)\n",
            ),
            ("opaque/f", "opaque/f  2 lower  lower1/opaque/f  hidden by what is at a directory above\n"),
            ("fresh", "fresh  0 upper  upper/fresh  metadata, data\n"),
            ("nothing", "plyfs: nothing: no layer has it (name a path in the view)\n"),
        ] {
            assert_eq!(told(&stack, &[path]), expected, "{path}");
        }
        let json = told(&stack, &["--json", "gone"]);
        let expected = concat!(
            r#"{"v":1,"path":"gone","kind":null,"parts":["#,
            r#"{"level":0,"role":"upper","at":"upper/gone","gives":[],"marks":["whiteout"]},"#,
            r#"{"level":2,"role":"lower","at":"lower1/gone","gives":[],"marks":[],"hidden_by":{"level":0,"what":"whiteout"}}]}"#,
            "\n"
        );
        assert_eq!(json, expected);
        let options = stack.layer_options("work");
        drop(mount);
        assert_eq!(told(&stack, &["-o", &options, "fresh"]), "fresh  0 upper  upper/fresh  metadata, data\n");
        assert!(told(&stack, &["-o", &options, "/"]).starts_with(".  0 upper  "), "{}", Path::new("/").display());
    });
}

#[test]
fn another_name_of_a_changed_hard_link_is_in_the_index() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].file("a", "x").hard_link("a", "b");
        let mount = stack.mount();
        mount.append("a", "y").unwrap();
        if mount.text("b") != "xy" {
            skip!("the layers can have no index");
        }
        let text = told(&stack, &["b"]);
        assert!(text.starts_with("b  0 upper  workdir/index/") && text.contains("metadata, data\n"), "{text}");
        assert!(text.contains("1 lower  lower0/b") && text.contains("hidden by 0 (object)"), "{text}");
    });
}

/// Marks are followed as the mount follows them, which here has no upper layer to tell of.
#[test]
fn marks_in_the_layers_of_a_read_only_view_are_followed() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].file("z", "data");
        let mut mount = stack.mount();
        mount.chmod("z", 0o600).unwrap();
        mount.unmount();
        let (upper, lower) = (stack.upper().root(), stack.lowers[0].root());
        let options = format!("lowerdir={}:{}", upper.display(), lower.display());
        let view = Mount::with(&options, &stack.scratch.dir("view"), &stack.scratch.path().join("log"));
        let at = view.root().join("z");
        for words in [&["where"][..], &["layer", "du"]] {
            let of = if words.len() == 1 { at.as_path() } else { view.root() };
            let done = std::process::Command::new(mount::binary()).args(words).arg(of).output().unwrap();
            let said = String::from_utf8_lossy(&done.stderr);
            assert!(done.status.success(), "{words:?}: {said}");
        }
    });
}
