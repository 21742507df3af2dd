//! PostgreSQL with checksums on its pages.

use std::path::Path;
use std::process::Command;

use crate::common::{Scratch, Stack, Who, legs, skip, who, within};
use crate::kills::{find, says};

/// A program of PostgreSQL; root has it run as the user of the tests, as it refuses to be root.
fn program(name: &str, user: Option<(u32, u32)>) -> Command {
    let at = find(name).unwrap();
    let Some((uid, gid)) = user else { return Command::new(at) };
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".into()]).arg(at);
    command
}

/// A server on a data directory: started, loaded, stopped, its pages checked.
struct Server<'a> {
    data: &'a Path,
    socket: &'a Path,
    user: Option<(u32, u32)>,
}

impl Server<'_> {
    fn run(&self, name: &str, args: &[&str]) -> Result<String, String> {
        let mut command = program(name, self.user);
        command
            .args(args)
            .current_dir("/")
            .env("PGHOST", self.socket)
            .env("PGUSER", "plyfs")
            .env("PGDATABASE", "postgres");
        says(command.env("PGDATA", self.data).env("LC_ALL", "C"))
    }

    fn make(&self) -> Result<(), String> {
        self.run("initdb", &["-k", "-A", "trust", "-U", "plyfs", "--no-instructions"]).map(drop)
    }

    fn is_loaded(&self) -> Result<(), String> {
        let options = format!("-c listen_addresses='' -c unix_socket_directories='{}'", self.socket.display());
        let log = self.socket.join("log");
        self.run("pg_ctl", &["start", "-w", "-l", log.to_str().unwrap(), "-o", &options])
            .map_err(|why| format!("{why}\n{}", std::fs::read_to_string(&log).unwrap_or_default()))?;
        let loaded = self.load();
        let stopped = self.run("pg_ctl", &["stop", "-w", "-m", "fast"]);
        loaded.and(stopped)?;
        self.run("pg_checksums", &["--check"]).map(drop)
    }

    fn load(&self) -> Result<String, String> {
        self.run("pgbench", &["-i", "-q", "-s", "1"])?;
        let said = self.run("pgbench", &["-c", "4", "-j", "2", "-T", "2"])?;
        if !said.contains("number of failed transactions: 0 ") {
            return Err(said);
        }
        let sums = "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history)";
        match self.run("psql", &["-Atc", sums])?.as_str() {
            "t" => Ok(said),
            other => Err(format!("the sums are equal: {other}")),
        }
    }
}

/// The ids that the server runs with, or why it cannot.
fn user() -> Result<Option<(u32, u32)>, String> {
    for name in ["initdb", "pg_ctl", "postgres", "pgbench", "psql", "pg_checksums"] {
        find(name).ok_or(format!("no {name} (Debian: postgresql)"))?;
    }
    match who() {
        Who::Root => Ok(Some(legs::user())),
        Who::User => Ok(None),
        Who::Namespace => Err("PostgreSQL refuses to be root of a namespace".into()),
    }
}

fn server_works(below: bool) {
    let user = match user() {
        Ok(user) => user,
        Err(why) => skip!("{why}"),
    };
    within(180, move || {
        let (stack, outside) = (Stack::in_memory(1), Scratch::new());
        let socket = outside.dir("socket");
        stack.lowers[0].dir("pg", 0o755);
        let own = |path: &Path| {
            if let Some((uid, gid)) = user {
                std::os::unix::fs::chown(path, Some(uid), Some(gid)).unwrap();
            }
        };
        [stack.lowers[0].at("pg"), socket.clone()].iter().for_each(|dir| own(dir));
        if below {
            let data = stack.lowers[0].at("pg/data");
            Server { data: &data, socket: &socket, user }.make().unwrap();
        }
        let before = crate::common::view::layer(stack.lowers[0].root());
        let mut mount = stack.mount();
        let data = mount.at("pg/data");
        let server = Server { data: &data, socket: &socket, user };
        if !below {
            server.make().unwrap();
        }
        server.is_loaded().unwrap();
        mount.remount();
        server.run("pg_checksums", &["--check"]).unwrap();
        server.is_loaded().unwrap();
        crate::common::view::layer(stack.lowers[0].root()).assert_same(&before, "the lower layer (after, before)");
    });
}

#[test]
fn postgresql_makes_its_data_directory_in_a_mount() {
    server_works(false);
}

#[test]
fn postgresql_goes_on_with_a_data_directory_of_a_lower_layer() {
    server_works(true);
}
