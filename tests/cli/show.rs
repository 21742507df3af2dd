//! What a mount is can be seen: in the mount table as far as it has room, and wholly by `plyfs show`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;

use super::errors::fails;
use super::*;
use crate::common::*;

fn show(at: &Path, more: &[&str]) -> Result<String, String> {
    let out = plyfs(["show"]).arg(at).args(more).output().unwrap();
    if out.status.success() { Ok(String::from_utf8(out.stdout).unwrap()) } else { Err(stderr(&out)) }
}

fn lines<'a>(text: &'a str, key: &str) -> Vec<&'a str> {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(of, _)| *of == key)
        .map(|(_, value)| value.trim())
        .collect()
}

#[test]
fn a_view_tells_its_layers_and_options_as_they_took_effect() {
    bounded(|| {
        let stack = Stack::new(2);
        stack.lowers[1].file("sub/f", "x");
        let paths = [stack.lowers[0].root(), stack.lowers[1].root()].map(|path| path.display().to_string());
        for (options, effect) in [
            (
                "redirect_dir=off,index=off,timeout=2.5",
                &["redirect_dir=nofollow", "index=off", "metacopy=off", "attr_timeout=2.5"][..],
            ),
            ("fsync=strict,threads=3,prefetch=off,noacl", &["fsync=strict", "threads=3", "prefetch=off", "noacl"]),
            ("ro", &["ro", "io=stateless", "copyup=lazy", "entry_timeout=forever"]),
            ("supervise", &["rw", "supervise", "prefetch=off"]),
        ] {
            let view = Background::start(&stack, options);
            for at in [stack.merged.clone(), stack.merged.join("sub")] {
                let text = show(&at, &[]).unwrap();
                assert_eq!(lines(&text, "lowerdir"), paths, "{text}");
                assert_eq!(lines(&text, "upperdir"), [stack.upper().root().to_str().unwrap()], "{text}");
                assert_eq!(lines(&text, "mountpoint"), [stack.merged.to_str().unwrap()], "{text}");
                assert_eq!(lines(&text, "version"), [env!("CARGO_PKG_VERSION")], "{text}");
                let pid: i32 = lines(&text, "pid")[0].parse().unwrap();
                assert_eq!(pid == view.daemon.as_raw_pid(), options != "supervise", "{text}");
                for option in effect {
                    assert!(lines(&text, "option").contains(option), "{option}: {text}");
                }
            }
        }
    });
}

#[test]
fn status_lists_each_view_in_a_line() {
    bounded(|| {
        let stack = Stack::new(2);
        let status = |args: &[&str]| String::from_utf8(plyfs(["status"]).args(args).output().unwrap().stdout).unwrap();
        let merged = stack.merged.to_str().unwrap();
        let of_this = |text: &str| text.lines().filter(|line| line.contains(merged)).map(str::to_owned).next();
        assert_eq!(of_this(&status(&[])), None);
        let view = Background::start(&stack, "");
        let (pid, upper) = (view.daemon.as_raw_pid(), stack.upper().root().display().to_string());
        assert_eq!(of_this(&status(&[])), Some(format!("{merged}  pid {pid}  upper {upper}, 2 lower")));
        assert!(of_this(&status(&["--json"])).unwrap().starts_with(r#"{"v":1,"version":"#));
        std::fs::write(stack.merged.join("new"), "n").unwrap();
        let bytes = std::fs::metadata(stack.upper().root().join("new")).unwrap().blocks() * 512;
        let of_one = format!("{}objects     1\nbytes       {bytes}\n", show(&stack.merged, &[]).unwrap());
        assert_eq!(status(&[merged]), of_one);
        let expected = show(&stack.merged, &["--json"]).unwrap().replace("}\n", ",\"objects\":1");
        assert_eq!(status(&["--json", merged]), format!("{expected},\"bytes\":{bytes}}}\n"));
    });
}

#[test]
fn many_layers_and_bytes_that_are_no_text_are_told_whole() {
    bounded(|| {
        let stack = Stack::read_only(0);
        let odd = stack.scratch.path().join(OsString::from_vec(b"odd\xff\n\"b\\c".to_vec()));
        std::fs::create_dir(&odd).unwrap();
        let mut list = odd.as_os_str().as_bytes().to_vec();
        // No newline in a list of paths.
        let more: Vec<_> = (0..120).map(|at| stack.scratch.dir(&format!("{}{at}", "long".repeat(12)))).collect();
        list.clear();
        more.iter().for_each(|path| list.extend([path.as_os_str().as_bytes(), b"\n"].concat()));
        std::fs::write(stack.scratch.path().join("list"), &list).unwrap();
        let mut options = b"lowerdir+=".to_vec();
        options.extend(odd.as_os_str().as_bytes());
        options.extend(format!(",lowerdir+=@{}/list", stack.scratch.path().display()).bytes());
        let _view = Background::run(&stack, plyfs(["-o"]).arg(OsString::from_vec(options)).arg(&stack.merged));
        let text = show(&stack.merged, &[]).unwrap();
        let told = lines(&text, "lowerdir");
        assert_eq!(told.len(), 121, "{text}");
        assert!(told[0].ends_with(r#"/odd\xff\n"b\\c"#), "{}", told[0]);
        assert_eq!(told[1..], more.iter().map(|path| path.to_str().unwrap()).collect::<Vec<_>>());
        let source = Entry::of(&stack.merged).unwrap().source;
        assert!(source.starts_with("lowerdir=") && source.ends_with(":…") && source.len() < 1100, "{source}");
        let json = show(&stack.merged, &["--json"]).unwrap();
        let mut jq = Command::new("jq");
        jq.args([
            "-r",
            ".pid, (.layers | length), .layers[0].role, .layers[0].path_base64, .layers[120].path, .options.ro",
        ]);
        let file = stack.scratch.path().join("json");
        std::fs::write(&file, json).unwrap();
        let Ok(out) = jq.arg(&file).output() else { skip!("no jq here") };
        let said = String::from_utf8(out.stdout).unwrap();
        let said: Vec<_> = said.lines().collect();
        let coded = Command::new("base64")
            .args(["-d"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn();
        let mut coded = coded.unwrap();
        std::io::Write::write_all(&mut coded.stdin.take().unwrap(), said[3].as_bytes()).unwrap();
        assert_eq!(coded.wait_with_output().unwrap().stdout, odd.as_os_str().as_bytes());
        assert_eq!((said[1], said[2], said[4], said[5]), ("121", "lower", more[119].to_str().unwrap(), "true"));
    });
}

#[test]
fn the_next_daemon_tells_of_itself() {
    bounded(|| {
        let stack = Stack::new(1);
        let _view = Background::start(&stack, "supervise");
        let pid = |text: &str| lines(text, "pid")[0].parse::<i32>().unwrap();
        let first = pid(&show(&stack.merged, &[]).unwrap());
        kill_process(Pid::from_raw(first).unwrap(), Signal::KILL).unwrap();
        let text = show(&stack.merged, &[]).unwrap();
        assert_ne!(pid(&text), first, "{text}");
        assert_eq!(lines(&text, "lowerdir"), [stack.lowers[0].root().to_str().unwrap()]);
    });
}

#[test]
fn what_does_not_work_in_full_is_told_later_too() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.scratch.dir("work");
        std::fs::write(stack.scratch.path().join("work/index"), "in the way").unwrap();
        let mut command = plyfs(["-o", &stack.layer_options("work")]);
        let _view = Background::run(&stack, command.arg(&stack.merged));
        let text = show(&stack.merged, &[]).unwrap();
        assert!(lines(&text, "degraded").iter().any(|note| note.contains("index")), "{text}");
        assert!(lines(&text, "option").contains(&"index=off"), "{text}");
    });
}

#[test]
fn what_is_no_view_or_may_not_be_asked_is_one_line() {
    bounded(|| {
        let stack = Stack::new(1);
        fails(plyfs(["show"]).arg(&stack.merged), 1, &["no view of plyfs"]);
        fails(&mut plyfs(["show", "/proc"]), 1, &["/proc", "no view of plyfs"]);
        fails(&mut plyfs(["show", "/nonexistent"]), 1, &["/nonexistent", "No such file"]);
        fails(&mut plyfs(["show", "/dev/null"]), 1, &["Not a directory"]);
        fails(&mut plyfs(["show"]), 2, &["show MOUNTPOINT"]);
        fails(&mut plyfs(["show", "/a", "/b"]), 2, &["show MOUNTPOINT"]);
        let mut view = Background::start(&stack, "rw");
        view.signal(Signal::KILL);
        assert_eq!(view.ended(), None);
        fails(plyfs(["show"]).arg(&stack.merged), 1, &["daemon is gone", "plyfs umount"]);
        unmount_any(&stack.merged, true).unwrap();
    });
}
