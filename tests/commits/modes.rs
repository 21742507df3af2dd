//! What a normal user has frozen without rights of his own on it is his own to change, as it was before.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::about;
use crate::common::*;

#[test]
fn a_file_that_its_owner_may_not_read_can_be_changed() {
    within(60, || {
        let stack = Stack::new(1);
        let mut mount = stack.mount();
        for name in ["closed", "written"] {
            mount.write(name, "text").unwrap();
        }
        mount.mkdir("gone", 0o755).unwrap();
        mount.mkdir("full", 0o755).unwrap();
        mount.mkdir("unlisted", 0o755).unwrap();
        mount.write("unlisted/f", "f").unwrap();
        mount.write("full/f", "f").unwrap();
        for (name, mode) in [("closed", 0), ("written", 0o200), ("gone", 0), ("full", 0), ("unlisted", 0o300)] {
            mount.chmod(name, mode).unwrap();
        }
        about("commit", mount.root()).unwrap();
        mount.chmod("closed", 0o600).unwrap();
        assert_eq!(mount.read("closed").unwrap(), b"text");
        mount.chmod("written", 0o600).unwrap();
        assert_eq!(mount.read("written").unwrap(), b"text");
        mount.write("unlisted/g", "g").unwrap();
        mount.chmod("unlisted", 0o700).unwrap();
        assert_eq!(fs::read_dir(mount.at("unlisted")).unwrap().count(), 2);
        assert!(fs::remove_dir(mount.at("full")).is_err());
        fs::remove_dir(mount.at("gone")).unwrap();
        // What is frozen is as it was.
        for (name, mode) in [("closed", 0), ("written", 0o200), ("full", 0), ("unlisted", 0o300)] {
            let path = stack.scratch.path().join("work/commits/1/layer").join(name);
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, mode, "{name}");
        }
        about("commit", mount.root()).unwrap();
        mount.remount();
        assert_eq!(mount.read("closed").unwrap(), b"text");
        assert!(mount.stat("gone").is_err());
    });
}
