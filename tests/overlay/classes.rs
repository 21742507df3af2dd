//! The classes of case, and what answers for those that are not asked here.

use std::path::Path;

use crate::common::*;
use crate::row::{By, Row, covered};
use crate::{attributes, copies, data, flags, links, lowers, mounts, numbers, whiteouts};

/// The classes: 1 to 89 are cases, 100 to 117 histories over many arrangements of layers.
fn numbers_of_classes() -> impl Iterator<Item = u16> {
    (1..=89).chain(100..=117)
}

const REDIRECT: &str = "tests/formats/redirect.rs";
const MARKS: &str = "tests/formats/marks.rs";

/// What other tests answer.
const ELSEWHERE: &[Row] = &[
    covered(&[49], "two redirects to one lower directory", REDIRECT, "two names for one lower directory"),
    covered(&[46], "redirects that lead nowhere", REDIRECT, "to a path that is nowhere"),
    covered(&[46], "redirects in a circle", REDIRECT, "redirects in a circle"),
    covered(&[80, 89], "digests by fs-verity", "tests/formats/verity.rs", "verity=on: a chmod of fs-verity"),
    covered(&[48], "broken counts", "tests/formats/index.rs", "U-999999"),
    covered(&[24], "an unknown feature in the workdir", MARKS, "an unknown feature in the workdir"),
    covered(
        &[100, 103, 106],
        "random histories over layers",
        "tests/differential.rs",
        "histories_agree_with_the_kernel",
    ),
    covered(
        &[110, 111, 112, 113, 114, 115, 116, 117],
        "overlays on overlays",
        "tests/filesystems/nested.rs",
        "marks_made_through_a_mount_are_found_by_plyfs_on_top",
    ),
    covered(
        &[35],
        "a workdir that cannot be written to",
        "tests/cli/rivals.rs",
        "a_workdir_that_cannot_be_written_to_makes_the_view_read_only",
    ),
    covered(
        &[87],
        "a volatile layer that lost power",
        "tests/power/volatile.rs",
        "a_volatile_layer_that_lost_power_is_refused",
    ),
];

/// All rows of the table.
pub fn all() -> Vec<Row> {
    let here = [
        whiteouts::ROWS,
        copies::ROWS,
        data::ROWS,
        attributes::ROWS,
        flags::ROWS,
        numbers::ROWS,
        links::ROWS,
        mounts::ROWS,
        lowers::ROWS,
        ELSEWHERE,
    ];
    here.concat()
}

fn text(file: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap_or_default()
}

/// Fails where a class has no row, a row names what is not there, or two rows have one name.
pub fn check(rows: &[Row]) {
    let documents = ["docs/semantics.md", "docs/layers.md", "docs/options.md", "README.md"].map(text).concat();
    if documents.is_empty() {
        skip!("the sources are closed to this user");
    }
    // Lines of the documents are broken anywhere.
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let documents = words(&documents);
    let mut wrong = Vec::new();
    for class in numbers_of_classes().filter(|class| !rows.iter().any(|row| row.classes.contains(class))) {
        wrong.push(format!("no row for class {class}"));
    }
    for (i, row) in rows.iter().enumerate() {
        if rows[..i].iter().any(|other| other.id == row.id) {
            wrong.push(format!("two rows are called {}", row.id));
        }
        let (said, there) = match &row.by {
            By::Here(case) => (case.unlike.map(|(_, _, said)| said), true),
            By::Without(_, said) => (Some(*said), true),
            By::Covered(file, name) => {
                let text = text(file);
                (None, text.contains(&format!("fn {name}()")) || text.contains(&format!("\"{name}\"")))
            }
        };
        if !there {
            wrong.push(format!("{}: not in its file", row.id));
        }
        if said.is_some_and(|said| said.is_empty() || !documents.contains(&words(said))) {
            wrong.push(format!("{}: the documents do not say {said:?}", row.id));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
