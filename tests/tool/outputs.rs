//! Where `plyfs layer export` writes: what stands there already, and what must not be written into.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::process::{Command, Output};

use crate::common::*;

fn export(args: &[&str]) -> Output {
    Command::new(mount::binary()).args(["layer", "export"]).args(args).output().unwrap()
}

#[test]
fn an_archive_takes_the_place_of_a_file_with_its_mode_and_of_nothing_else() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].file("f", "text");
        let layer = stack.lowers[0].root().to_str().unwrap().to_owned();
        let at = |name: &str| stack.scratch.path().join(name);
        let write = |name: &str| {
            let out = export(&["--tar", at(name).to_str().unwrap(), &layer]);
            assert!(out.status.success(), "{name}: {}", String::from_utf8_lossy(&out.stderr));
        };
        fs::write(at("private"), "old").unwrap();
        fs::set_permissions(at("private"), fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink("private", at("link")).unwrap();
        write("link");
        assert!(fs::symlink_metadata(at("link")).unwrap().is_symlink());
        assert_eq!(fs::metadata(at("private")).unwrap().permissions().mode() & 0o777, 0o600);
        let archive = fs::read(at("private")).unwrap();
        assert!(archive.len() > 1024);
        // What somebody has put beside it is not written through.
        fs::write(at("mine"), "mine").unwrap();
        std::os::unix::fs::symlink("mine", at(".new.undone")).unwrap();
        write("new");
        assert_eq!(
            (fs::read_to_string(at("mine")).unwrap(), fs::read(at("new")).unwrap()),
            ("mine".into(), archive.clone())
        );

        assert!(Command::new("mkfifo").arg(at("fifo")).status().unwrap().success());
        let reader = std::thread::spawn({
            let fifo = at("fifo");
            move || fs::read(fifo).unwrap()
        });
        write("fifo");
        assert_eq!(reader.join().unwrap(), archive);
        assert!(fs::symlink_metadata(at("fifo")).unwrap().file_type().is_fifo());
    });
}

#[test]
fn nothing_is_written_into_what_is_exported() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].file("d/f", "text");
        let mount = stack.mount();
        mount.write("new", "text").unwrap();
        let options = format!("-o{}", stack.layer_options("work"));
        let (upper, view, lower) = (stack.upper().at("d"), mount.root().to_owned(), stack.lowers[0].at("d"));
        fs::create_dir(&upper).unwrap();
        let inside = |dir: &std::path::Path, name: &str| dir.join(name).to_str().unwrap().to_owned();
        for args in [
            &["--tar", &inside(&upper, "x.tar"), view.to_str().unwrap()][..],
            &["--tar", &inside(&view, "x.tar"), view.to_str().unwrap()],
            &["--oci", &inside(&upper, "image"), &options],
            &["--oci", &inside(&lower, "image:v1"), &options],
            &["--merged", "--tar", &inside(&lower, "x.tar"), &options],
        ] {
            let out = export(args);
            let said = String::from_utf8_lossy(&out.stderr).into_owned();
            assert!(out.status.code() == Some(2) && said.contains("it lies in what is exported"), "{args:?}: {said}");
        }
        assert_eq!((fs::read_dir(&upper).unwrap().count(), fs::read_dir(&lower).unwrap().count()), (0, 1));
    });
}
