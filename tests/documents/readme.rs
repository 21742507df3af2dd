//! The README, as somebody follows it who has nothing else: its commands run, its lists and its plot are what they say.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use plyfs::cli::usage::MOST_USED;

use super::{check_blocks, check_file, has, root};
use crate::common::mount::wait_until;
use crate::common::{Scratch, bounded, kernel, lacks, legs, say_skipped, skip};

const MOST_LINES: usize = 250;

fn readme() -> Option<String> {
    fs::read_to_string(root().join("README.md")).ok()
}

#[test]
fn it_has_the_options_that_most_need_and_fits_its_frame() {
    let rows =
        MOST_USED.iter().fold(String::from("| option | what it does |\n|---|---|\n"), |mut rows, (shape, help)| {
            let _ = writeln!(rows, "| `{}` | {help} |", shape.replace('|', "\\|"));
            rows
        });
    check_blocks("README.md", &[("most used -->", rows)]);
    let Some(readme) = readme() else { skip!("the sources are closed to this user") };
    assert!(readme.lines().count() <= MOST_LINES, "{} lines", readme.lines().count());
}

/// The blocks that are marked `sh`: those that a normal user can run, one after the other, in an empty directory.
fn blocks(readme: &str) -> Vec<&str> {
    readme.split("\n```sh\n").skip(1).filter_map(|rest| rest.split("\n```").next()).collect()
}

/// Why a block cannot run here.
fn missing(block: &str) -> Option<&'static str> {
    if block.contains("--supervise") && (kernel() < (6, 9) || lacks("resend")) {
        return Some("--supervise needs Linux 6.9");
    }
    None
}

#[test]
fn its_commands_run_as_a_normal_user() {
    let Some(readme) = readme() else { skip!("the sources are closed to this user") };
    for (program, package) in [("fusermount3", "fuse3"), ("unshare", "util-linux"), ("setpriv", "util-linux")] {
        if !has(program) {
            skip!("no {program} (apt-get install {package})");
        }
    }
    bounded(move || {
        let scratch = Scratch::new();
        let (home, bin) = (scratch.dir("home"), scratch.dir("bin"));
        fs::copy(crate::common::mount::binary(), bin.join("plyfs")).unwrap();
        fs::set_permissions(bin.join("plyfs"), fs::Permissions::from_mode(0o755)).unwrap();
        let blocks = blocks(&readme);
        assert!(blocks.len() >= 4, "the README's blocks: {blocks:?}");
        let mut script = String::from("set -eu\n");
        for block in blocks {
            match missing(block) {
                Some(why) => say_skipped(why),
                None => script += &format!("{block}\n"),
            }
        }
        let out = as_a_user(&home, &bin, &script);
        let (said, warned) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        assert!(out.status.success() && warned.is_empty(), "{}\n{said}\n{warned}", out.status);
        assert!(said.starts_with("marble\nglass\n"), "{said}");
        let read = |file: &str| fs::read_to_string(home.join(file)).unwrap();
        assert_eq!(
            (read("layer2/window"), read("build/window")),
            ("glass\n".to_owned(), "glass\ncurtain\n".to_owned())
        );
        assert!(wait_until(|| !runs(&bin.join("plyfs"))), "a daemon is left behind");
        assert!(said.contains("lowerdir ") && said.trim_end().ends_with("floor\nwindow"), "{said}");
    });
}

/// The story of a session: what is typed, after what was there.
const HOUSE: &str = "mkdir -p house/shed && cd house && echo rose >garden && echo rake >shed/tools && echo oak >floor";
const STORY: [&str; 6] = [
    "plyfs run -n try-it --on . sh -c 'echo tulip >>garden; rm -r shed; echo soup >menu'",
    "plyfs diff try-it",
    "plyfs undo try-it shed",
    "plyfs commit try-it -m 'a tulip and a menu'",
    "plyfs apply try-it",
    "cat garden",
];

#[test]
fn its_story_is_told_as_it_runs() {
    let Some(readme) = readme() else { skip!("the sources are closed to this user") };
    if !has("unshare") || !has("setpriv") || !fs::exists("/dev/fuse").unwrap() {
        skip!("no unshare or setpriv (apt-get install util-linux), or no /dev/fuse");
    }
    drop(readme);
    bounded(|| {
        let scratch = Scratch::new();
        let (home, bin) = (scratch.dir("home"), scratch.dir("bin"));
        fs::copy(crate::common::mount::binary(), bin.join("plyfs")).unwrap();
        fs::set_permissions(bin.join("plyfs"), fs::Permissions::from_mode(0o755)).unwrap();
        let mut script = format!("{HOUSE}\n");
        for line in STORY {
            script += &format!("cat <<'END'\n$ {line}\nEND\n{line} 2>&1\n");
        }
        let out = as_a_user(&home, &bin, &script);
        assert!(out.status.success() && out.stderr.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
        // What this machine has that no union can stand on.
        let said = String::from_utf8(out.stdout).unwrap();
        let told = said.lines().filter(|line| !line.contains("is not in the view: "));
        let at = home.strip_prefix("/").unwrap().display().to_string();
        let told: String = told.map(|line| format!("{}\n", line.replace(&at, "home/me"))).collect();
        check_blocks("README.md", &[("story -->", format!("```console\n{told}```\n"))]);
    });
}

/// Whether there is a process of this program.
fn runs(program: &Path) -> bool {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes.into_iter().any(|process| fs::read_link(process.path().join("exe")).is_ok_and(|exe| exe == program))
}

/// Runs a script as a normal user, in `home`, with `bin` before the other programs.
fn as_a_user(home: &Path, bin: &Path, script: &str) -> std::process::Output {
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new("sh");
    if rustix::process::geteuid().is_root() {
        let (uid, gid) = legs::user();
        // In a mount table of its own /dev/fuse is open to all, as udev leaves it.
        let prepare = r#"mknod "$1/fuse" c 10 229; chmod 666 "$1/fuse"; mount --bind "$1/fuse" /dev/fuse
            chown "$2:$3" "$1"; exec setpriv --reuid="$2" --regid="$3" --clear-groups sh -c "$4""#;
        command = Command::new("unshare");
        command.args(["-m", "--propagation", "private", "sh", "-euc", prepare, "sh"]).arg(home);
        command.args([uid.to_string(), gid.to_string()]);
    } else {
        command.arg("-c");
    }
    command.arg(script).current_dir(home).env("PATH", path).env("HOME", home).env_remove("RUST_LOG").output().unwrap()
}

#[test]
fn it_is_installed_where_programs_look() {
    if !root().join("install.sh").exists() {
        skip!("the sources are closed to this user");
    }
    let scratch = Scratch::new();
    let mut command = Command::new("sh");
    command.arg(root().join("install.sh")).env("DESTDIR", scratch.path()).env("BINARY", env!("CARGO_BIN_EXE_plyfs"));
    let out = command.env_remove("PREFIX").output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    for (file, mode) in [
        ("usr/local/bin/plyfs", 0o755),
        ("usr/local/share/man/man1/plyfs.1", 0o644),
        ("usr/local/share/man/man1/plyfs-status.1", 0o644),
        ("usr/local/share/man/man8/mount.fuse.plyfs.8", 0o644),
        ("usr/local/share/bash-completion/completions/plyfs", 0o644),
        ("usr/local/share/zsh/site-functions/_plyfs", 0o644),
        ("usr/local/share/fish/vendor_completions.d/plyfs.fish", 0o644),
    ] {
        let found = fs::metadata(scratch.path().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert_eq!(found.permissions().mode() & 0o7777, mode, "{file}");
    }
    let helper = fs::read_link(scratch.path().join("sbin/mount.fuse.plyfs")).unwrap();
    assert_eq!(helper, Path::new("/usr/local/bin/plyfs"));
    let mut command = Command::new("sh");
    let gone =
        command.arg(root().join("install.sh")).arg("uninstall").env("DESTDIR", scratch.path()).env_remove("PREFIX");
    assert!(gone.status().unwrap().success());
    let left = Command::new("find").arg(scratch.path()).args(["!", "-type", "d"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&left.stdout), "", "left by uninstall");
    let absent =
        Command::new("sh").arg(root().join("install.sh")).env("BINARY", "/nonexistent/plyfs").output().unwrap();
    assert!(!absent.status.success() && String::from_utf8_lossy(&absent.stderr).contains("cargo build --release"));
}

#[test]
fn what_the_documents_link_to_exists() {
    let docs = fs::read_dir(root().join("docs")).into_iter().flatten().flatten().map(|entry| entry.path());
    let top = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"].map(|file| root().join(file));
    for document in docs.chain(top).filter(|path| path.extension().is_some_and(|extension| extension == "md")) {
        let Ok(text) = fs::read_to_string(&document) else { continue };
        for link in text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
            let is_here = !link.is_empty() && !link.contains("://");
            assert!(!is_here || document.with_file_name(link).exists(), "{} links to {link}", document.display());
        }
    }
}

/// The colours of the table's columns.
const COLOURS: [&str; 3] = ["#3d8b5f", "#8fb8d8", "#30638e"];
/// Pixels from one bar to the next.
const HEIGHT: usize = 14;
/// Pixels of the widest bar.
const WIDTH: f64 = 520.0;

/// The README's table of loads as bars.
fn plot(readme: &str) -> String {
    let cells =
        |row: &str| -> Vec<String> { row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect() };
    let mut rows =
        readme.lines().skip_while(|line| !line.starts_with("| load |")).take_while(|line| line.starts_with('|'));
    let names = cells(rows.next().unwrap());
    let loads: Vec<Vec<String>> = rows.skip(1).map(cells).collect();
    let most = loads.iter().flat_map(|load| &load[1..]).map(|cell| cell.parse::<f64>().unwrap()).fold(1.0, f64::max);
    let height = 50 + loads.len() * (3 * HEIGHT + 10);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 820 {height}\" style=\"background:white\" \
         font-family=\"sans-serif\" font-size=\"12\">\n"
    );
    for (at, name) in names[1..].iter().enumerate() {
        let (x, colour) = (20 + at * 180, COLOURS[at]);
        let _ = writeln!(svg, "<text x=\"{x}\" y=\"20\" fill=\"{colour}\">&#9632; {name}</text>");
    }
    for (at, load) in loads.iter().enumerate() {
        let top = 40 + at * (3 * HEIGHT + 10);
        let middle = top + 3 * HEIGHT / 2 + 4;
        let _ = writeln!(svg, "<text x=\"220\" y=\"{middle}\" text-anchor=\"end\">{}</text>", load[0]);
        for (bar, cell) in load[1..].iter().enumerate() {
            let (y, width) = (top + bar * HEIGHT, cell.parse::<f64>().unwrap() / most * WIDTH);
            let _ = writeln!(
                svg,
                "<rect x=\"230\" y=\"{y}\" width=\"{width:.1}\" height=\"{}\" fill=\"{}\"/><text x=\"{:.1}\" y=\"{}\">{cell}</text>",
                HEIGHT - 2,
                COLOURS[bar],
                234.0 + width,
                y + HEIGHT - 4
            );
        }
    }
    let (one, bottom) = (230.0 + WIDTH / most, height - 10);
    let _ = writeln!(svg, "<path d=\"M{one:.1} 34V{bottom}\" stroke=\"#d1495b\" stroke-dasharray=\"4 3\"/>");
    let _ =
        writeln!(svg, "<text x=\"{one:.1}\" y=\"{height}\" text-anchor=\"middle\" fill=\"#d1495b\">the kernel</text>");
    svg + "</svg>\n"
}

#[test]
fn the_plot_shows_the_table() {
    let Some(readme) = readme() else { skip!("the sources are closed to this user") };
    check_file("docs/loads.svg", &plot(&readme));
}
