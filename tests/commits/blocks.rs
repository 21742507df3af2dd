//! Files that arrive by blocks (`copyup_block=`): a step completes them first, whoever uses them meanwhile.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::thread;

use super::live::beside;
use crate::about;
use crate::common::*;

const SIZE: usize = 4 << 20;

fn stack(files: usize) -> Stack {
    let stack = Stack::new(1).option("copyup_block=64K");
    for number in 0..files {
        stack.lowers[0].file(&format!("big{number}"), vec![b'z'; SIZE]);
    }
    stack
}

#[test]
fn files_that_begin_to_arrive_meanwhile_are_whole() {
    within(240, || {
        let stack = stack(32);
        let mut mount = stack.mount();
        let root = mount.root().to_owned();
        let write = move |over: &std::sync::atomic::AtomicBool| {
            let mut number = 0;
            while number < 32 || !over.load(std::sync::atomic::Ordering::Relaxed) {
                let file = File::options().write(true).open(root.join(format!("big{}", number % 32))).unwrap();
                let at = (number * 7919 * 4096) % SIZE;
                file.write_all_at(&[b'q'; 100], at as u64).unwrap();
                number += 1;
                thread::sleep(std::time::Duration::from_millis(3));
            }
        };
        beside(write, || {
            for number in 0..12 {
                mount.write("each", number.to_string()).unwrap();
                about("commit", mount.root()).unwrap();
            }
        });
        for again in [false, true] {
            if again {
                mount.remount();
            }
            for number in 0..32 {
                let bytes = mount.read(format!("big{number}")).unwrap();
                assert_eq!(bytes.len(), SIZE);
                assert!(bytes.contains(&b'q') && bytes.iter().all(|byte| b"qz".contains(byte)), "big{number}, {again}");
            }
        }
    });
}

#[test]
fn a_file_without_a_name_keeps_what_has_not_arrived_yet() {
    within(120, || {
        for step in ["commit", "undo"] {
            let stack = stack(1);
            let mount = stack.mount();
            let file = File::options().read(true).write(true).open(mount.at("big0")).unwrap();
            file.write_all_at(b"XXXX", 0).unwrap();
            mount.unlink("big0").unwrap();
            mount.write("each", step).unwrap();
            about(step, mount.root()).unwrap();
            file.write_all_at(b"YYYY", SIZE as u64 / 2).unwrap();
            let mut bytes = vec![0; SIZE];
            // Not from the page cache.
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
            file.read_exact_at(&mut bytes, 0).unwrap();
            let mut expected = vec![b'z'; SIZE];
            expected[..4].fill(b'X');
            expected[SIZE / 2..SIZE / 2 + 4].fill(b'Y');
            assert!(bytes == expected, "after {step}");
            assert_eq!(mount.stat("big0").is_ok(), step == "undo");
        }
    });
}
