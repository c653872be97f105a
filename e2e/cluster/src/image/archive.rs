//! Writes images in the format of `docker save`: a tar file with the layer, its configuration, and an index.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

use super::{NOBODY, libraries};
use crate::hex::hex;

/// The configuration of an image's containers.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// The program with its fixed arguments.
    pub entrypoint: Vec<String>,
    /// Default arguments, which the `args` of a pod replace.
    pub arguments: Vec<String>,
    /// Environment variables as `NAME=value`.
    pub environment: Vec<String>,
}

impl Config {
    /// The configuration of a container that runs `entrypoint`.
    #[must_use]
    pub fn running<S: Into<String>>(entrypoint: impl IntoIterator<Item = S>) -> Self {
        Self {
            entrypoint: entrypoint.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }
}

/// An image to which files can be added.
#[derive(Debug)]
pub struct Image {
    names: Vec<String>,
    config: Config,
    /// Sorted, so that the same files make the same image.
    entries: BTreeMap<PathBuf, Entry>,
}

#[derive(Debug)]
enum Entry {
    Directory { mode: u32 },
    File { source: PathBuf, mode: u32 },
    Text(String),
    Link(PathBuf),
}

impl Image {
    /// Creates an empty image. `name` includes the tag.
    #[must_use]
    pub fn new(name: &str, config: Config) -> Self {
        Self {
            names: vec![name.to_owned()],
            config,
            entries: BTreeMap::new(),
        }
    }

    /// Adds another name for the image.
    pub fn also_named(&mut self, name: &str) {
        self.names.push(name.to_owned());
    }

    /// Adds files that programs expect on every system: users, a temporary folder, name resolution, and the certificates of
    /// public authorities if this machine has them.
    pub fn base(&mut self) {
        let user = format!("nonroot:x:{NOBODY}:{NOBODY}:nonroot:/:/sbin/nologin");
        self.text(
            "/etc/passwd",
            &format!("root:x:0:0:root:/:/sbin/nologin\n{user}\n"),
        );
        self.text("/etc/group", &format!("root:x:0:\nnonroot:x:{NOBODY}:\n"));
        self.text("/etc/nsswitch.conf", "hosts: files dns\n");
        self.add(Path::new("/tmp"), Entry::Directory { mode: 0o1777 });
        let certificates = Path::new("/etc/ssl/certs/ca-certificates.crt");
        if certificates.is_file() {
            self.add(
                certificates,
                Entry::File {
                    source: certificates.to_owned(),
                    mode: 0o644,
                },
            );
        }
    }

    /// Adds a file with the content `text`.
    pub fn text(&mut self, at: &str, text: &str) {
        self.add(Path::new(at), Entry::Text(text.to_owned()));
    }

    /// Adds a copy of the file `source`.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn file(&mut self, source: &Path, at: impl AsRef<Path>) -> anyhow::Result<()> {
        let about = fs::metadata(source).with_context(|| format!("cannot read {}", source.display()))?;
        let mode = if about.permissions().mode() & 0o111 == 0 {
            0o644
        } else {
            0o755
        };
        self.add(
            at.as_ref(),
            Entry::File {
                source: source.to_owned(),
                mode,
            },
        );
        Ok(())
    }

    /// Adds a copy of the program `source` and its shared libraries.
    ///
    /// # Errors
    /// If it or a library cannot be read.
    pub fn program(&mut self, source: &Path, at: impl AsRef<Path>) -> anyhow::Result<()> {
        self.file(source, at)?;
        for library in libraries::of(source)? {
            self.file(&library, &library)?;
        }
        Ok(())
    }

    /// Adds a copy of the folder `source` with all of its content. Symbolic links are kept.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn folder(&mut self, source: &Path, at: &Path) -> anyhow::Result<()> {
        for entry in fs::read_dir(source).with_context(|| format!("cannot list {}", source.display()))? {
            let entry = entry?;
            let (from, to) = (entry.path(), at.join(entry.file_name()));
            let kind = entry.file_type()?;
            if kind.is_dir() {
                self.folder(&from, &to)?;
            } else if kind.is_symlink() {
                let target = fs::read_link(&from)?;
                self.add(&to, Entry::Link(target));
            } else {
                self.file(&from, &to)?;
            }
        }
        Ok(())
    }

    /// Writes the image to `archive` atomically.
    ///
    /// # Errors
    /// If a file of the image cannot be read or `archive` cannot be written.
    pub fn write(&self, archive: &Path) -> anyhow::Result<()> {
        let dir = archive
            .parent()
            .with_context(|| format!("{} is not a file", archive.display()))?;
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let mut layer =
            tempfile::tempfile_in(dir).with_context(|| format!("cannot write in {}", dir.display()))?;
        self.write_layer(&mut layer)
            .with_context(|| format!("the image {}", self.names[0]))?;
        let layer_digest = digest_of(&mut layer)?;

        let config = self.description(&layer_digest)?;
        let config_name = format!("{}.json", hex(&Sha256::digest(&config)));
        let layer_name = format!("{layer_digest}/layer.tar");
        let index =
            json!([{ "Config": config_name, "RepoTags": self.names, "Layers": [layer_name] }]).to_string();

        let complete = tempfile::NamedTempFile::new_in(dir)?;
        let mut tar = Builder::new(io::BufWriter::new(complete.as_file()));
        append(&mut tar, &config_name, config.as_slice(), config.len() as u64)?;
        let size = layer.metadata()?.len();
        layer.rewind()?;
        append(&mut tar, &layer_name, &mut layer, size)?;
        append(&mut tar, "manifest.json", index.as_bytes(), index.len() as u64)?;
        tar.into_inner()?.flush()?;
        complete
            .as_file()
            .set_permissions(fs::Permissions::from_mode(0o644))?;
        complete
            .persist(archive)
            .with_context(|| format!("cannot write {}", archive.display()))?;
        Ok(())
    }

    fn description(&self, layer_digest: &str) -> anyhow::Result<Vec<u8>> {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => bail!("images for {other} are not supported; x86_64 and aarch64 are"),
        };
        Ok(serde_json::to_vec(&json!({
            "architecture": architecture,
            "os": "linux",
            "config": {
                "Entrypoint": self.config.entrypoint,
                "Cmd": self.config.arguments,
                "Env": self.config.environment,
                "User": format!("{NOBODY}:{NOBODY}"),
                "WorkingDir": "/",
            },
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{layer_digest}")] },
        }))?)
    }

    fn write_layer(&self, file: &mut File) -> anyhow::Result<()> {
        let mut tar = Builder::new(io::BufWriter::new(file));
        for (path, entry) in &self.entries {
            let name = path.strip_prefix("/").unwrap_or(path);
            let mut header = Header::new_gnu();
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            header.set_size(0);
            match entry {
                Entry::Directory { mode } => {
                    header.set_entry_type(EntryType::Directory);
                    header.set_mode(*mode);
                    tar.append_data(&mut header, name, io::empty())
                }
                Entry::Link(target) => {
                    header.set_entry_type(EntryType::Symlink);
                    header.set_mode(0o777);
                    tar.append_link(&mut header, name, target)
                }
                Entry::Text(text) => {
                    header.set_mode(0o644);
                    header.set_size(text.len() as u64);
                    tar.append_data(&mut header, name, text.as_bytes())
                }
                Entry::File { source, mode } => {
                    let open =
                        File::open(source).with_context(|| format!("cannot read {}", source.display()))?;
                    header.set_mode(*mode);
                    header.set_size(open.metadata()?.len());
                    tar.append_data(&mut header, name, open)
                }
            }
            .with_context(|| format!("cannot add {}", path.display()))?;
        }
        tar.into_inner()?.flush()?;
        Ok(())
    }

    /// Adds an entry and its parent folders.
    fn add(&mut self, at: &Path, entry: Entry) {
        for folder in at.ancestors().skip(1).filter(|folder| folder.parent().is_some()) {
            self.entries
                .entry(folder.to_owned())
                .or_insert(Entry::Directory { mode: 0o755 });
        }
        self.entries.insert(at.to_owned(), entry);
    }
}

fn append(tar: &mut Builder<impl Write>, name: &str, data: impl io::Read, size: u64) -> anyhow::Result<()> {
    let mut header = Header::new_gnu();
    header.set_size(size);
    header.set_mode(0o644);
    header.set_mtime(0);
    Ok(tar.append_data(&mut header, name, data)?)
}

fn digest_of(file: &mut File) -> anyhow::Result<String> {
    file.rewind()?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(&buffer[..read]);
    }
}
