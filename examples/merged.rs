//! Reads a merged tree without a mount: each name that the layers show together, its bytes, and a total.
//!
//! `cargo run --release --example merged -- TOP LOWER…`: the first directory covers the others, as in `lowerdir=`.

use std::error::Error;
use std::process::ExitCode;

use plyfs::union::{DirSink, InodeId, Kind, ListedEntry};
use plyfs::{Name, Union};

/// The names of one directory.
#[derive(Default)]
struct Names(Vec<(Vec<u8>, Kind)>);

impl DirSink for Names {
    fn add(&mut self, entry: &ListedEntry<'_>) -> bool {
        if !matches!(entry.name, b"." | b"..") {
            self.0.push((entry.name.to_vec(), entry.kind));
        }
        true
    }
}

/// Files and bytes.
type Total = (u64, u64);

/// Reads a file as a program would, a piece at a time; returns its bytes.
fn read(union: &Union, id: InodeId, buffer: &mut [u8]) -> Result<u64, plyfs::Errno> {
    let mut at = 0;
    loop {
        match union.read(id, at, buffer)? {
            0 => return Ok(at),
            more => at += more as u64,
        }
    }
}

fn walk(union: &Union, dir: (InodeId, &str), buffer: &mut [u8], total: &mut Total) -> Result<(), Box<dyn Error>> {
    let mut names = Names::default();
    union.readdir(dir.0, 0, false, &mut names)?;
    names.0.sort_by(|one, other| one.0.cmp(&other.0));
    for (name, kind) in names.0 {
        let path = format!("{}/{}", dir.1, String::from_utf8_lossy(&name));
        let Some(entry) = union.lookup(dir.0, &Name::new(&name)?)? else { continue };
        match kind {
            Kind::Dir => walk(union, (entry.id, &path), buffer, total)?,
            Kind::File => {
                let bytes = read(union, entry.id, buffer)?;
                println!("{bytes:>12}  {path}");
                *total = (total.0 + 1, total.1 + bytes);
            }
            _ => println!("{:>12}  {path}", format!("{kind:?}").to_lowercase()),
        }
        // A lookup is given back when its inode is no longer needed.
        union.forget(entry.id, 1);
    }
    Ok(())
}

fn run() -> Result<(), Box<dyn Error>> {
    let mut layers = std::env::args_os().skip(1).peekable();
    layers.peek().ok_or("name the layers, the topmost first: merged TOP LOWER…")?;
    let union = layers.fold(Union::builder(), |builder, layer| builder.lower(layer)).build()?;
    let mut total = Total::default();
    walk(&union, (InodeId::ROOT, ""), &mut vec![0; 1 << 20], &mut total)?;
    println!("{:>12}  in {} files", total.1, total.0);
    Ok(())
}

fn main() -> ExitCode {
    run().map_or_else(
        |error| {
            eprintln!("merged: {error}");
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}
