//! `plyfs diff`: what the upper layer of a view changes.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use similar::TextDiff;

use super::super::commands::{print, print_bytes};
use super::super::daemon::say;
use super::super::progress::Spinner;
use super::super::report::Failure;
use super::super::told::{self, line};
use super::changes::{self, Seen};
use super::shared::Shared;
use crate::base::Result as SysResult;
use crate::tool::{self, Change, Kind, Layers, Letter, Side, What};
use crate::union::Range;

/// The exit status with `--exit-code`, if there are changes.
const CHANGED: u8 = 1;
/// The exit status if not all could be compared.
const LOSSES: u8 = 4;

/// Files of more bytes are not compared line by line.
const MOST_TEXT: u64 = 16 << 20;
/// So long lines are compared before a longer way from one file to the other is good enough.
const PATIENCE: Duration = Duration::from_secs(2);

/// what a view has changed: since its last commit, or between two
#[derive(Debug, Args)]
#[command(after_help = "\
A..B are two commits: what changed from the state of A to that of B, which must stand on A. 0 is
the lower layers as they are, and A.. means up to now. Without a range it is since the last commit,
or, where there is none, since the lower layers.

Letters: A added, D deleted, R renamed, T of another type, M modified, m only in its mode, owner,
times or extended attributes

Exit status: 0 done; 1 not done, or --exit-code and changes; 2 usage; 4 not all could be compared

Examples:
  plyfs diff
  plyfs diff ~/view src --stat
  plyfs diff try-it 0.. -p
  plyfs diff -o lowerdir=base,upperdir=u,workdir=w -p")]
pub struct Diff {
    /// A mountpoint or a session, two commits, and paths in it (the current directory's view)
    #[arg(value_name = "VIEW|A..B|PATH")]
    words: Vec<PathBuf>,
    /// The layers of a view that is not mounted, as `mount` takes them
    #[arg(short = 'o', value_name = "OPTION,…")]
    options: Vec<OsString>,
    /// Print counts and bytes of each kind of change only
    #[arg(long, conflicts_with_all = ["names", "patch", "json"])]
    stat: bool,
    /// Print paths only
    #[arg(long, conflicts_with_all = ["patch", "json"])]
    names: bool,
    /// Print the changed lines of text files, too
    #[arg(short = 'p', long, conflicts_with = "json")]
    patch: bool,
    /// End paths by NUL, unescaped, each behind its letter and a NUL
    #[arg(short = 'z', conflicts_with_all = ["stat", "patch", "json"])]
    nul: bool,
    /// Exit with 1 if there are changes
    #[arg(long)]
    exit_code: bool,
    #[command(flatten)]
    shared: Shared,
    /// Print no summary
    #[arg(short = 'q', long)]
    quiet: bool,
}

impl Diff {
    /// Prints it.
    ///
    /// # Errors
    /// There is no view, or it cannot be read.
    pub fn run(self) -> Result<u8, Failure> {
        let (range, words) = self.range()?;
        let (parts, paths) = changes::find_for(&self.options, &words, self.shared.store.clone(), range)?;
        let spinner = Spinner::new("comparing");
        let found = changes::compare(&parts, &paths, !self.names && !self.nul)?;
        drop(spinner);
        if found.changes.is_empty() && found.troubles.is_empty() {
            changes::check_there(&parts, &paths)?;
        }
        self.print(&found.changes)?;
        for (path, errno) in &found.troubles {
            say(&format!("{}: cannot be compared: {errno}", told::line(path)));
        }
        Ok(match (found.troubles.is_empty(), found.changes.is_empty()) {
            (false, _) => LOSSES,
            (true, false) if self.exit_code => CHANGED,
            _ => 0,
        })
    }

    /// The range of commits among the words, which is the first or, behind a view, the second; and the others.
    ///
    /// # Errors
    /// A second range, and a word that looks like a range and is none.
    fn range(&self) -> Result<(Range, Vec<PathBuf>), Failure> {
        let parse = |word: &PathBuf| Range::parse(word.as_os_str().as_bytes());
        let (mut words, mut range) = (self.words.clone(), None);
        if let Some(at) = words.iter().take(2).position(|word| parse(word).is_some()) {
            range = parse(&words.remove(at));
        }
        if let Some(word) = words.iter().find(|word| looks_like_range(word)) {
            let reason = match parse(word) {
                Some(_) => "one range of commits at most is taken, before all paths",
                None => "it is no range of commits: A..B or A.., numbers as plyfs log tells them",
            };
            let hint = format!("a file of this name is ./{}", line(word));
            return Err(Failure::usage(line(word), reason, hint));
        }
        Ok((range.unwrap_or_default(), words))
    }

    fn print(&self, seen: &[Seen<'_>]) -> Result<(), Failure> {
        let changes: &[Change] = &seen.iter().map(|seen| seen.told.clone()).collect::<Vec<_>>();
        if self.nul {
            let letter = |change: &Change| match self.names {
                true => String::new(),
                false => format!("{}\0", change.letter.letter()),
            };
            let each = |change| [letter(change).into_bytes(), told::raw_paths(change)].concat();
            return print_bytes(&changes.iter().flat_map(each).collect::<Vec<u8>>());
        }
        if self.shared.json {
            return print(&changes.iter().map(told::json).collect::<String>());
        }
        if self.names {
            return print(&changes.iter().map(|change| told::line(&change.path) + "\n").collect::<String>());
        }
        let paint = self.shared.color.paint();
        if self.stat {
            print(&told::stat(changes))?;
        } else if self.patch {
            for seen in seen {
                print(&told::columns(std::slice::from_ref(&seen.told), paint))?;
                print_bytes(&patch(seen))?;
            }
        } else {
            print(&told::columns(changes, paint))?;
        }
        if self.quiet { Ok(()) } else { print(&told::summary(changes)) }
    }
}

/// Digits and dots, `..` among them. The parent directory is none.
fn looks_like_range(word: &Path) -> bool {
    let word = word.as_os_str().as_bytes();
    let plain = word.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.');
    plain && word != b".." && word.windows(2).any(|two| two == b"..")
}

/// A file's name in the head of a patch, as GNU diff writes it: a TAB ends a name with a space, and one with bytes that end
/// lines or are no text is quoted.
fn patch_name(side: &str, path: &Path) -> String {
    let bytes = path.as_os_str().as_bytes();
    let is_special = |byte: &u8| matches!(byte, 0..0x20 | 0x7f | b'"' | b'\\');
    match std::str::from_utf8(bytes) {
        Ok(text) if !bytes.iter().any(is_special) => {
            format!("{side}/{text}{}", if text.contains(' ') { "\t" } else { "" })
        }
        _ => {
            let quoted = |byte: &u8| match byte {
                b'"' | b'\\' => format!("\\{}", char::from(*byte)),
                0x20..0x7f => char::from(*byte).to_string(),
                _ => format!("\\{byte:03o}"),
            };
            format!("\"{side}/{}\"", bytes.iter().map(quoted).collect::<String>())
        }
    }
}

/// The changed lines of a text file, as patch(1) takes them with `-p1`.
fn patch(Seen { told, own: change, layers }: &Seen<'_>) -> Vec<u8> {
    let is_file = |kind: Kind| kind == Kind::File;
    let (old, new) = match change.letter {
        Letter::Added => (false, is_file(change.kind)),
        Letter::Deleted => (is_file(change.kind), false),
        Letter::Retyped => (change.was_kind.is_some_and(is_file), is_file(change.kind)),
        Letter::Modified | Letter::Renamed | Letter::Metadata => {
            let changed = is_file(change.kind) && change.what.contains(&What::Data);
            (changed, changed)
        }
    };
    if !old && !new {
        return Vec::new();
    }
    let was = change.was.as_deref().unwrap_or(&change.path);
    let text = |is: bool, side, path| if is { text(layers, side, path) } else { Ok(Some(String::new())) };
    let texts = (text(old, Side::Before, was), text(new, Side::After, &change.path));
    let name = |is: bool, side: &str, path: &Path| match is {
        true => patch_name(side, path),
        false => "/dev/null".to_owned(),
    };
    let (a, b) = (name(old, "a", told.was.as_deref().unwrap_or(&told.path)), name(new, "b", &told.path));
    let (Ok(Some(before)), Ok(Some(after))) = texts else { return format!("Binary files {a} and {b} differ\n").into() };
    let lines = TextDiff::configure().timeout(PATIENCE).diff_lines(&before, &after);
    let mut hunks = Vec::new();
    // Writing to memory cannot fail.
    let _ = lines.unified_diff().header(&a, &b).to_writer(&mut hunks);
    hunks
}

/// The text of a file; `None`: it is none, or too long.
fn text(layers: &Layers, side: Side, path: &Path) -> SysResult<Option<String>> {
    let Some((content, size)) = tool::read(layers, side, path)? else { return Ok(None) };
    if size > MOST_TEXT {
        return Ok(None);
    }
    let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
    let len = content.read_at(0, &mut bytes)?;
    bytes.truncate(len);
    Ok(String::from_utf8(bytes).ok().filter(|text| !text.contains('\0')))
}
