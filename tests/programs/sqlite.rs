//! SQLite with both of its journals.

use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::common::{Scratch, Stack, skip, within};
use crate::kills::{Program, is_here, kills, says, script, survives};

/// Rows that each transaction moves something between: the sum stays.
const ACCOUNTS: u64 = 40_000;
const EACH: u64 = 1000;

struct Sqlite {
    journal: &'static str,
    scratch: Scratch,
}

fn sqlite(database: &Path, sql: &str) -> Result<String, String> {
    says(Command::new("sqlite3").arg("-bail").arg(database).arg(sql))
}

impl Sqlite {
    /// A file with all transactions from one on.
    fn transactions(&self, acked: &Path, from: u64) -> PathBuf {
        let mut sql = format!(
            ".timeout 10000\n.output /dev/null\nPRAGMA journal_mode={}; PRAGMA synchronous=FULL; PRAGMA cache_size=50;\n",
            self.journal
        );
        let mut random = from.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        for number in from + 1..from + 20_000 {
            let mut account = || {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random % ACCOUNTS
            };
            let _ = writeln!(sql, "BEGIN IMMEDIATE; INSERT INTO log VALUES ({number}, hex(randomblob(300)));");
            for _ in 0..4 {
                let (one, other) = (account(), account());
                let _ =
                    writeln!(sql, "UPDATE accounts SET has = has - 1, note = hex(randomblob(40)) WHERE id = {one};");
                let _ = writeln!(sql, "UPDATE accounts SET has = has + 1 WHERE id = {other};");
            }
            // What SQLite has committed is told outside of the mount.
            let _ = writeln!(sql, "COMMIT;\nSELECT writefile('{}', '{number}');", acked.display());
        }
        let path = self.scratch.path().join("transactions.sql");
        std::fs::write(&path, sql).unwrap();
        path
    }
}

impl Program for Sqlite {
    fn load(&mut self, root: &Path, acked: &Path, from: u64) -> Vec<Command> {
        let mut writer = Command::new("sqlite3");
        writer.arg("-bail").arg(root.join("db/data.sqlite"));
        writer.stdin(File::open(self.transactions(acked, from)).unwrap());
        writer.stdout(Stdio::null()).stderr(Stdio::null());
        // Another process reads meanwhile: with a WAL the two share a mapped index.
        let reader = script(
            r#"while [ -e "$1" ]; do
                sum=$(sqlite3 -bail -cmd '.timeout 10000' "$1" 'SELECT sum(has) FROM accounts') || exit 0
                echo "$sum" >> "$2"
            done"#,
            &[&root.join("db/data.sqlite"), &self.scratch.path().join("sums")],
        );
        vec![writer, reader]
    }

    fn check(&mut self, root: &Path) -> Result<u64, String> {
        let database = root.join("db/data.sqlite");
        let found = sqlite(&database, "PRAGMA integrity_check(5)")?;
        if found != "ok" {
            return Err(format!("integrity_check: {found}"));
        }
        let sum = (ACCOUNTS * EACH).to_string();
        let seen = std::fs::read_to_string(self.scratch.path().join("sums")).unwrap_or_default();
        if let Some(wrong) = seen.lines().find(|line| *line != sum) {
            return Err(format!("a reader has seen the sum {wrong}"));
        }
        let row = sqlite(
            &database,
            "SELECT (SELECT sum(has) FROM accounts), count(*), coalesce(max(n), 0), (SELECT count(*) FROM accounts) FROM log",
        )?;
        match row.split('|').collect::<Vec<_>>()[..] {
            [total, count, last, accounts] if total == sum && count == last && accounts == ACCOUNTS.to_string() => {
                last.parse().map_err(|_| row.clone())
            }
            _ => Err(format!("sum, rows, last, accounts are {row}")),
        }
    }
}

fn database_survives(journal: &'static str) {
    if !is_here("sqlite3") {
        skip!("no sqlite3");
    }
    within(60 + 20 * kills(), move || {
        let stack = Stack::in_memory(1);
        stack.lowers[0].dir("db", 0o755);
        // All in one page cache of 50 pages, as in #475: a large file and many small writes all over it.
        let made = format!(
            "PRAGMA journal_mode={journal}; CREATE TABLE log (n INTEGER PRIMARY KEY, text); \
             CREATE TABLE accounts (id INTEGER PRIMARY KEY, has INTEGER, note TEXT); \
             CREATE INDEX notes ON accounts (note); \
             WITH RECURSIVE i(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM i LIMIT {ACCOUNTS}) \
             INSERT INTO accounts SELECT n, {EACH}, hex(randomblob(40)) FROM i;"
        );
        sqlite(&stack.lowers[0].at("db/data.sqlite"), &made).unwrap();
        survives(&stack, &mut Sqlite { journal, scratch: Scratch::new() });
    });
}

#[test]
fn sqlite_with_a_write_ahead_log_survives_kills() {
    database_survives("WAL");
}

#[test]
fn sqlite_with_a_rollback_journal_survives_kills() {
    database_survives("DELETE");
}
