//! The completions as people meet them: in bash, zsh and fish on a terminal of their own.
//!
//! Each case types a line with tabs and runs it, where `plyfs` is a function that writes down its arguments. So what is
//! checked is what the shell would have run, and not what it draws.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::{has, root};
use crate::common::{Scratch, bounded, skip};

/// What is typed behind `plyfs `, and the arguments that it becomes. A tab completes, `DIR` is a directory with
/// `layer one`, `lower` and `upper` in it.
const CASES: &[(&str, &[&str])] = &[
    ("sho\t/", &["show", "/"]),
    ("umo\t/ --la\t", &["umount", "/", "--lazy"]),
    ("help comp\t", &["help", "complete"]),
    ("--superv\t/", &["--supervise", "/"]),
    ("-o metaco\toff", &["-o", "metacopy=off"]),
    ("-o lowerdir=/a,ind\ton", &["-o", "lowerdir=/a,index=on"]),
    ("-o lowerdir=/a,volat\t", &["-o", "lowerdir=/a,volatile"]),
    ("-o lowerdir=/a,metacopy=of\t", &["-o", "lowerdir=/a,metacopy=off"]),
    ("-o log=sys\t", &["-o", "log=syslog"]),
    ("-o lowerdir=DIR/low\t", &["-o", "lowerdir=DIR/lower/"]),
    ("-o lowerdir=/a:DIR/low\t", &["-o", "lowerdir=/a:DIR/lower/"]),
    ("-o ro,lowerdir=/a:DIR/low\t,upperdir=DIR/upp\t", &["-o", "ro,lowerdir=/a:DIR/lower/,upperdir=DIR/upper/"]),
    ("-o upperdir=DIR/lay\t", &["-o", "upperdir=DIR/layer one/"]),
    ("complete -o ro,workd\tDIR/upp\t", &["complete", "-o", "ro,workdir=DIR/upper/"]),
    ("-f -o ro DIR/upp\t", &["-f", "-o", "ro", "DIR/upper/"]),
];

/// What is typed behind `plyfs `, and what stands on the terminal when it is asked what may follow.
const LISTS: &[(&str, &[&str])] = &[
    ("-o metacopy=", &["on", "off"]),
    ("-o ro,redirect_dir=", &["nofollow", "follow", "off"]),
    ("-o ro,verity=", &["require"]),
    ("", &["mount", "umount", "show", "complete"]),
    ("layer ", &["squash", "convert", "import", "export"]),
    ("layer squash --", &["bottom", "workdir", "link"]),
];

/// A shell on a terminal of its own (script(1) makes it).
struct Shell {
    process: Child,
    keys: ChildStdin,
    screen: Arc<Mutex<String>>,
}

impl Shell {
    /// Starts it with a home of its own and `setup` typed, in which `OUT` is the file that `plyfs` writes.
    fn start(command: &str, home: &Path, setup: &str) -> Self {
        let mut script = Command::new("script");
        script.args(["-q", "-c", command, "/dev/null"]).current_dir(home).env("HOME", home).env("TERM", "dumb");
        script.env("LC_ALL", "C.UTF-8").env_remove("XDG_CONFIG_HOME").env_remove("XDG_DATA_HOME").env_remove("ENV");
        let mut process =
            script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("script(1)");
        let (keys, mut output) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        let screen = Arc::new(Mutex::new(String::new()));
        let drawn = screen.clone();
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(len @ 1..) = output.read(&mut bytes) {
                drawn.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..len]));
            }
        });
        let mut shell = Shell { process, keys, screen };
        let ready = home.join("ready");
        shell.press(&format!("{setup}\nprintf x >{}\n", ready.display()));
        shell.wait(|_| ready.exists(), "the shell starts");
        shell
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
        self.keys.flush().unwrap();
    }

    /// Waits until it is so, of what was drawn since the start.
    #[track_caller]
    fn wait(&self, is: impl Fn(&str) -> bool, what: &str) {
        let start = Instant::now();
        while !is(&self.screen.lock().unwrap()) {
            assert!(start.elapsed() < Duration::from_secs(20), "{what}: {}", self.screen.lock().unwrap());
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn clear(&self) {
        self.screen.lock().unwrap().clear();
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Goes through all cases in one shell; `list` is what is typed to be told what may follow `LINE`.
fn complete_in(program: &'static str, command: &'static str, setup: &'static str, list: &'static str) {
    for (needed, hint) in [(program, program), ("script", "bsdutils")] {
        if !has(needed) {
            skip!("no {needed} (apt-get install {hint})");
        }
    }
    if !root().join("docs/completions").exists() {
        skip!("the sources are closed to this user");
    }
    bounded(move || {
        let scratch = Scratch::new();
        let home = scratch.path().canonicalize().unwrap();
        let (dir, out) = (home.join("d"), home.join("out"));
        for name in ["layer one", "lower", "upper"] {
            fs::create_dir_all(dir.join(name)).unwrap();
        }
        let files = root().join("docs/completions");
        let setup = setup.replace("FILES", files.to_str().unwrap()).replace("OUT", out.to_str().unwrap());
        let mut shell = Shell::start(command, &home, &setup);
        for (typed, expected) in CASES {
            let place = |text: &str| text.replace("DIR", dir.to_str().unwrap());
            let expected: String = expected.iter().map(|arg| format!("<{}>\n", place(arg))).collect();
            shell.press(&place(&format!("plyfs {typed}\n")));
            let got = || fs::read_to_string(&out).unwrap_or_default();
            shell.wait(|_| got().ends_with("end\n"), typed);
            // zsh takes the slash at the end of a directory away.
            let plain = |args: &str| args.replace("/>", ">").replace("/,", ",");
            assert_eq!(plain(got().trim_end_matches("end\n")), plain(&expected), "{program}: plyfs {typed:?}");
            fs::remove_file(&out).unwrap();
        }
        for (typed, expected) in LISTS {
            shell.clear();
            shell.press(&list.replace("LINE", &format!("plyfs {typed}")));
            let has_word = |drawn: &str, word: &str| drawn.split(|c: char| !c.is_ascii_alphabetic()).any(|w| w == word);
            shell.wait(|drawn| expected.iter().all(|word| has_word(drawn, word)), &format!("{program}: {typed:?}"));
            // Control-U takes the line away.
            shell.press("\u{15}");
        }
    });
}

#[test]
fn bash_completes_commands_options_values_and_directories() {
    complete_in(
        "bash",
        "bash --norc --noprofile -i",
        "source FILES/plyfs.bash; plyfs() { { printf '<%s>\\n' \"$@\"; echo end; } >OUT; }",
        "LINE\t\t\t",
    );
}

#[test]
fn zsh_completes_commands_options_values_and_directories() {
    complete_in(
        "zsh",
        "zsh -f -i",
        "fpath=(FILES $fpath); autoload -U compinit; compinit -u -D; setopt nobeep; \
         plyfs() { { printf '<%s>\\n' \"$@\"; echo end; } >OUT; }",
        "LINE\t\t\t",
    );
}

#[test]
fn fish_completes_commands_options_values_and_directories() {
    complete_in(
        "fish",
        "fish --no-config -i",
        "source FILES/plyfs.fish; function plyfs; begin; printf '<%s>\\n' $argv; echo end; end >OUT; end",
        "complete -C 'LINE'\n",
    );
}
