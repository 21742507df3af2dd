//! Images: an OCI image layout ([image layout](https://github.com/opencontainers/image-spec/blob/main/image-layout.md)) is a
//! directory of blobs that are named by their digests, and an index that names the images among them.
//!
//! All is written to a directory beside the image. It becomes the image, or its blobs are moved there and the index is
//! replaced: whoever looks sees the images from before or after.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::squeeze::{Compression, Digests, OnItsWay, Squeezed, hex};
use crate::sys::lock::try_lock;

/// What begins the name of each thing that is not yet done.
const UNDONE: &str = ".plyfs-export.";
/// The version of the layout.
const LAYOUT: &str = "1.0.0";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// By which an index names an image.
pub(in crate::tool) const TAG: &str = "org.opencontainers.image.ref.name";

/// Where an image goes: the directory of the layout, and its name in the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The directory.
    pub dir: PathBuf,
    /// The name.
    pub tag: String,
}

/// A file that is being written.
pub struct Blob {
    path: PathBuf,
    file: File,
}

/// An image that is being written.
pub struct Image {
    at: Place,
    stage: PathBuf,
    /// Holds the stage for this process.
    _lock: File,
    blobs: u32,
    /// Their digests, sizes in bytes, and how they are compressed.
    layers: Vec<(Digests, u64, Compression)>,
}

impl Image {
    /// Begins an image. What exports have left there that were broken off is removed.
    ///
    /// # Errors
    /// The directory is there, and is no layout; what the file system says.
    pub fn new(at: Place) -> io::Result<Self> {
        if at.dir.exists() && !at.dir.join("oci-layout").exists() && fs::read_dir(&at.dir)?.next().is_some() {
            return Err(io::Error::other("it is no OCI image layout, and not empty"));
        }
        let dir = fs::canonicalize(&at.dir).or_else(|_| std::path::absolute(&at.dir))?;
        let (above, name) = dir.parent().zip(dir.file_name()).ok_or(io::ErrorKind::InvalidInput)?;
        let begin = format!("{UNDONE}{}.", name.to_string_lossy());
        for old in undone(above, &begin) {
            let _ = fs::remove_dir_all(old);
        }
        let stage = above.join(format!("{begin}{}", std::process::id()));
        fs::create_dir(&stage)?;
        let lock = File::open(&stage)?;
        let is_locked = try_lock(lock.as_fd())?;
        fs::create_dir_all(stage.join("blobs/sha256"))?;
        if !is_locked {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Self { at: Place { dir, ..at }, stage, _lock: lock, blobs: 0, layers: Vec::new() })
    }

    /// A file for the next layer, the lowest first.
    ///
    /// # Errors
    /// What the file system says.
    pub fn blob(&mut self) -> io::Result<Blob> {
        self.blobs += 1;
        let path = self.stage.join(format!("blobs/{}", self.blobs));
        Ok(Blob { file: File::create_new(&path)?, path })
    }

    /// Adds the layer that was written to `blob`, with its digests.
    ///
    /// # Errors
    /// `InvalidInput` without digests; what the file system says.
    pub fn add(&mut self, blob: Blob, how: Compression, squeezed: Squeezed) -> io::Result<()> {
        blob.file.sync_all()?;
        let digests = squeezed.digests.ok_or(io::ErrorKind::InvalidInput)?;
        fs::rename(&blob.path, self.stage.join("blobs/sha256").join(hex(&digests.stored)))?;
        self.layers.push((digests, squeezed.size, how));
        Ok(())
    }

    /// Writes what describes the layers, and puts all in its place. Returns the digest of the manifest.
    ///
    /// # Errors
    /// Another export is at it; the index makes no sense; what the file system says.
    pub fn finish(mut self) -> io::Result<String> {
        let diff_ids: Vec<_> = self.layers.iter().map(|(digests, ..)| named(&digests.plain)).collect();
        let history = json!({ "created_by": "plyfs layer export" });
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {},
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
            "history": vec![history; diff_ids.len()],
        });
        let config = self.json(CONFIG, &config)?;
        let layers = self.layers.iter().map(
            |(digests, size, how)| json!({ "mediaType": media_type(*how), "digest": named(&digests.stored), "size": size }),
        );
        let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers.collect::<Vec<_>>() });
        let mut manifest = self.json(MANIFEST, &manifest)?;
        let digest = manifest.get("digest").and_then(Value::as_str).unwrap_or_default().to_owned();
        if let Some(object) = manifest.as_object_mut() {
            object.insert("annotations".into(), json!({ TAG: self.at.tag }));
        }
        write(&self.stage.join("oci-layout"), &json!({ "imageLayoutVersion": LAYOUT }))?;
        self.place(manifest)?;
        Ok(digest)
    }

    /// Writes a description as a blob, and returns what refers to it.
    fn json(&mut self, media_type: &str, value: &Value) -> io::Result<Value> {
        let bytes = serde_json::to_vec(value)?;
        let digest: [u8; 32] = Sha256::digest(&bytes).into();
        write_bytes(&self.stage.join("blobs/sha256").join(hex(&digest)), &bytes)?;
        Ok(json!({ "mediaType": media_type, "digest": named(&digest), "size": bytes.len() }))
    }

    fn place(&self, manifest: Value) -> io::Result<()> {
        let (index, dir) = (self.stage.join("index.json"), &self.at.dir);
        if !dir.exists() {
            write(&index, &of_index(None, manifest, &self.at.tag)?)?;
            return sync_dir(&self.stage)
                .and_then(|()| fs::rename(&self.stage, dir))
                .and_then(|()| sync_dir(above(dir)));
        }
        let lock = File::open(dir)?;
        if !try_lock(lock.as_fd())? {
            return Err(io::Error::other("another export is at it"));
        }
        let known = match fs::read(dir.join("index.json")) {
            Ok(bytes) => Some(serde_json::from_slice(&bytes)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        write(&index, &of_index(known, manifest, &self.at.tag)?)?;
        let to = dir.join("blobs/sha256");
        fs::create_dir_all(&to)?;
        for blob in fs::read_dir(self.stage.join("blobs/sha256"))? {
            let blob = blob?;
            fs::rename(blob.path(), to.join(blob.file_name()))?;
        }
        sync_dir(&to)?;
        fs::rename(self.stage.join("oci-layout"), dir.join("oci-layout"))?;
        fs::rename(&index, dir.join("index.json"))?;
        sync_dir(dir)
    }
}

impl Blob {
    /// Where its bytes go.
    ///
    /// # Errors
    /// What `dup(2)` says.
    pub fn output(&self) -> io::Result<impl Write + Send + use<>> {
        Ok(OnItsWay::new(self.file.try_clone()?))
    }
}

impl Drop for Image {
    /// Where it has become the image it is there no more.
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.stage);
    }
}

/// The directories whose names begin so, and in which nobody works any more: those who did were broken off.
pub(in crate::tool) fn undone(dir: &Path, begin: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let begins = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(begin));
    let is_free = |file: File| try_lock(file.as_fd()) == Ok(true);
    let dirs = begins.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path());
    dirs.filter(|dir| File::open(dir).map_or_else(|error| error.kind() == io::ErrorKind::PermissionDenied, is_free))
        .collect()
}

/// An index with this manifest in the place of the one that had its tag.
fn of_index(known: Option<Value>, manifest: Value, tag: &str) -> io::Result<Value> {
    let mut index = known.unwrap_or_else(|| json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [] }));
    let manifests = index.get_mut("manifests").and_then(Value::as_array_mut);
    let manifests = manifests.ok_or_else(|| io::Error::other("index.json has no list of manifests"))?;
    let has_tag = |known: &Value| known.get("annotations").and_then(|all| all.get(TAG)) == Some(&json!(tag));
    manifests.retain(|known| !has_tag(known));
    manifests.push(manifest);
    Ok(index)
}

fn named(digest: &[u8]) -> String {
    format!("sha256:{}", hex(digest))
}

fn media_type(how: Compression) -> &'static str {
    match how {
        Compression::None => "application/vnd.oci.image.layer.v1.tar",
        Compression::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
        Compression::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
    }
}

/// The processor, as Go calls it.
pub(in crate::tool) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        "loongarch64" => "loong64",
        arch => arch,
    }
}

fn write(path: &Path, value: &Value) -> io::Result<()> {
    write_bytes(path, &serde_json::to_vec(value)?)
}

fn write_bytes(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn above(dir: &Path) -> &Path {
    dir.parent().unwrap_or(dir)
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
