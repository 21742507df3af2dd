//! A git repository in which one process commits while another packs and collects garbage.

use std::path::Path;
use std::process::Command;

use crate::common::{Stack, skip, within};
use crate::kills::{Program, is_here, kills, says, script, survives};

const COMMIT: &str = r#"exec 2> "$2.said"; cd "$1/repo" && n=$3 && while :; do
    n=$((n + 1))
    echo "$n" >> log && echo "$n" > "file$((n % 30))" && mkdir -p "dir$((n % 7))" && seq 1 $n > "dir$((n % 7))/f$n" || exit
    # git itself loses races with its gc (an empty directory of objects goes while a file is made in it).
    tries=0
    until git add -A && git commit -qm "$n"; do tries=$((tries + 1)); [ $tries -lt 5 ] || exit; done
    echo "$n" > "$2.new" && mv "$2.new" "$2"
    [ $((n % 4)) = 0 ] && git mv -f "file$((n % 30))" moved && git commit -qm "moved $n"
    [ $((n % 9)) = 0 ] && { git branch -f "b$((n % 5))" && git tag -f "t$((n % 5))" >/dev/null; }
done"#;
const PACK: &str = r#"cd "$1/repo" && while [ -e .git/HEAD ]; do
    git repack -adq; git gc -q; git pack-refs --all; git repack -dq
done"#;

struct Repository;

fn git(root: &Path, args: &[&str]) -> Result<String, String> {
    says(Command::new("git").arg("-C").arg(root.join("repo")).args(args))
}

impl Program for Repository {
    fn load(&mut self, root: &Path, acked: &Path, from: u64) -> Vec<Command> {
        vec![script(COMMIT, &[root, acked, Path::new(&from.to_string())]), script(PACK, &[root])]
    }

    fn check(&mut self, root: &Path) -> Result<u64, String> {
        // What git asks the user to do whose machine has died.
        for lock in walk_locks(&root.join("repo/.git")) {
            std::fs::remove_file(lock).map_err(|error| error.to_string())?;
        }
        git(root, &["fsck", "--full", "--strict", "--no-dangling", "--no-progress"])?;
        git(root, &["status", "--porcelain"])?;
        let subjects = git(root, &["log", "--format=%s"])?;
        let mut numbers: Vec<u64> = subjects.lines().filter_map(|line| line.parse().ok()).collect();
        numbers.sort_unstable();
        let last = numbers.len() as u64;
        if numbers.iter().copied().ne(1..=last) {
            return Err(format!("{last} commits, the last {:?}", numbers.last()));
        }
        let log = git(root, &["show", "HEAD:log"])?;
        if log.lines().count() as u64 != last {
            return Err(format!("the file at {last} has {} lines", log.lines().count()));
        }
        git(root, &["reset", "-q", "--hard"])?;
        git(root, &["clean", "-fdqx"])?;
        Ok(last)
    }
}

fn walk_locks(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(walk_locks(&path));
        } else if path.extension().is_some_and(|end| end == "lock") || path.ends_with("gc.pid") {
            found.push(path);
        }
    }
    found
}

#[test]
fn a_git_repository_survives_kills() {
    if !is_here("git") {
        skip!("no git");
    }
    within(60 + 20 * kills(), || {
        let stack = Stack::in_memory(1);
        let made = r#"git init -q -b main "$1/repo" && cd "$1/repo" && git config user.name t && git config user.email t@t
            git config gc.auto 0; git config gc.autoDetach false; git config maintenance.auto false
            for n in $(seq 1 40); do
                echo "old $n" > "file$((n % 30))"; git add -A; git commit -qm "old $n"; [ $n = 20 ] && git gc -q
            done; exit 0"#;
        says(&mut script(made, &[stack.lowers[0].root()])).unwrap();
        survives(&stack, &mut Repository);
    });
}
