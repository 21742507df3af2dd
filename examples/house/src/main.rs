//! The building site: two layers of material, one upper layer where the house is built, and what a union makes of them.
//!
//! `cargo run --release -p house` works as root, as a normal user with fusermount3, and without it in a user
//! namespace of its own.

use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::{Child, Command, ExitCode};
use std::time::{Duration, Instant};

type Done<T> = Result<T, Box<dyn Error>>;

/// The first argument with which this program is the daemon.
const SERVE: &str = "serve";

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1).peekable();
    if args.next_if(|first| first == SERVE).is_some() {
        return plyfs::cli::commands::run(std::iter::once(OsString::from("plyfs")).chain(args));
    }
    match story() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("house: {error}");
            ExitCode::FAILURE
        }
    }
}

fn story() -> Done<ExitCode> {
    let root = rustix::process::geteuid().is_root();
    if !root && std::env::var_os("HOUSE_NAMESPACE").is_none() && !has("fusermount3") {
        println!("(no fusermount3 here: going on in a user namespace of our own)");
        let me = std::env::current_exe()?;
        let status = Command::new("unshare").arg("-Urm").arg(me).env("HOUSE_NAMESPACE", "1").status()?;
        return Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let site = std::env::temp_dir().join(format!("plyfs-house-{}", std::process::id()));
    let done = build(&site);
    fs::remove_dir_all(&site)?;
    done.map(|()| ExitCode::SUCCESS)
}

fn build(site: &Path) -> Done<()> {
    for dir in ["material", "material2", "build", "work", "house"] {
        fs::create_dir_all(site.join(dir))?;
    }
    for (file, what) in [
        ("material/concrete", "bad concrete"),
        ("material/rebar", "rebar"),
        ("material2/concrete", "good concrete"),
        ("material2/marble", "marble"),
        ("material2/rebar", "rebar"),
    ] {
        fs::write(site.join(file), format!("{what}\n"))?;
    }
    let path = |dir: &str| site.join(dir).display().to_string();
    let layers = format!("{}:{}", path("material2"), path("material"));
    let options = format!("lowerdir={layers},upperdir={},workdir={}", path("build"), path("work"));
    println!("$ plyfs -o lowerdir=material2:material,upperdir=build,workdir=work house");
    let mut daemon = Daemon::start(&options, &site.join("house"))?;
    let house = site.join("house");

    show(site, "The house shows both layers of material; the good concrete covers the bad.")?;
    check(fs::read_to_string(house.join("concrete"))? == "good concrete\n", "the upper concrete is seen")?;

    fs::write(house.join("frame"), "frame\n")?;
    show(site, "$ echo frame > house/frame       (it is in build; the material is as it was)")?;
    check(site.join("build/frame").exists(), "the frame is in the upper layer")?;

    fs::write(house.join("concrete"), "good concrete, painted\n")?;
    show(site, "$ echo 'good concrete, painted' > house/concrete       (copied up, then changed)")?;
    check(fs::read_to_string(site.join("material2/concrete"))? == "good concrete\n", "the lower layer is untouched")?;

    fs::remove_file(house.join("marble"))?;
    show(site, "$ rm house/marble       (a whiteout in build hides it: a 0/0 character device)")?;
    let whiteout = fs::symlink_metadata(site.join("build/marble"))?;
    check(whiteout.file_type().is_char_device() && whiteout.rdev() == 0, "marble is a whiteout")?;
    check(site.join("material2/marble").exists() && !house.join("marble").exists(), "marble is hidden, not gone")?;
    daemon.stop()
}

/// The mount, served by this same program.
struct Daemon(Child);

impl Daemon {
    fn start(options: &str, merged: &Path) -> Done<Self> {
        let outside = fs::metadata(merged)?.dev();
        let mut child =
            Command::new(std::env::current_exe()?).args([SERVE, "-f", "-o", options]).arg(merged).spawn()?;
        let deadline = Instant::now() + Duration::from_secs(20);
        while fs::metadata(merged)?.dev() == outside {
            if child.try_wait()?.is_some() || Instant::now() > deadline {
                return Err("the mount failed".into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(Self(child))
    }

    /// SIGTERM unmounts and ends it in order.
    fn stop(&mut self) -> Done<()> {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        check(self.0.wait()?.success(), "the daemon ends in order")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            let _ = self.stop();
        }
    }
}

/// Prints a step, and the view beside the layers.
fn show(site: &Path, step: &str) -> Done<()> {
    println!("\n{step}");
    for dir in ["house", "build", "material2", "material"] {
        let mut names: Vec<_> = fs::read_dir(site.join(dir))?.collect::<Result<_, _>>()?;
        names.sort_by_key(fs::DirEntry::file_name);
        let described = names.iter().map(|entry| describe(entry)).collect::<Done<Vec<_>>>()?;
        println!("  {dir:<10} {}", described.join(", "));
    }
    Ok(())
}

fn describe(entry: &fs::DirEntry) -> Done<String> {
    let name = entry.file_name().to_string_lossy().into_owned();
    if entry.metadata()?.file_type().is_char_device() {
        return Ok(format!("{name} (0/0 device)"));
    }
    Ok(format!("{name} ({})", fs::read_to_string(entry.path())?.trim()))
}

fn check(holds: bool, what: &str) -> Done<()> {
    if holds { Ok(()) } else { Err(format!("not so: {what}").into()) }
}

fn has(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).exists()))
}
