//! The demo image: builds `plane-demo` statically and hands it to Docker, without any registry.
//!
//! The image's tag is a hash of the binary, so a tag never changes its meaning and two checkouts on one Docker engine
//! do not disturb each other. One process builds at a time; the others wait for it and find the image there.
//! Old tags are left alone, because somebody else may be running them.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

use anyhow::{Context as _, Result, bail};
use bollard::Docker;
use bollard::errors::Error as DockerError;
use bollard::query_parameters::CreateImageOptionsBuilder;
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use sha2::{Digest as _, Sha256};

/// The repository part of the image's name.
const REPOSITORY: &str = "plane/demo";
const BINARY: &str = "plane-demo";
/// Bytes of the hash that make the tag; 64 bits are plenty for builds of one machine.
const TAG_BYTES: usize = 8;

/// Makes sure that Docker has the demo image of the current source, and gives its name, `plane/demo:<hash>`.
///
/// Costs a look at the sources and one question to Docker where nothing changed, and a build of about half a minute
/// where it did.
///
/// # Errors
/// What the compiler or Docker said.
pub async fn ensure_demo_image() -> Result<String> {
    let docker = Docker::connect_with_defaults().context("no Docker to talk to; dev/setup installs and starts it")?;
    let docker = docker.negotiate_version().await.context("Docker does not answer; dev/setup starts it")?;
    let workshop = Workshop::new();
    if let Some(name) = workshop.known_name()
        && exists(&docker, &name).await?
    {
        return Ok(name);
    }

    // Held to the end of this function: who waited for it finds everything done.
    let (_lock, built) = tokio::task::spawn_blocking(move || -> Result<_> {
        let lock = workshop.lock()?;
        Ok((lock, workshop.build()?))
    })
    .await??;
    if !exists(&docker, &built.name).await? {
        import(&docker, &built).await?;
    }
    built.remember()?;
    Ok(built.name)
}

async fn exists(docker: &Docker, name: &str) -> Result<bool> {
    match docker.inspect_image(name).await {
        Ok(_) => Ok(true),
        Err(DockerError::DockerResponseServerError { status_code: 404, .. }) => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot ask Docker for the image {name}")),
    }
}

async fn import(docker: &Docker, built: &Built) -> Result<()> {
    let folder = built.binary.parent().unwrap_or(Path::new(".")).to_owned();
    let archive = tokio::task::spawn_blocking(move || archive(&folder)).await??;
    let (repository, tag) = built.name.split_once(':').unwrap_or((&built.name, "latest"));
    let changes = vec![format!("ENTRYPOINT [\"/{BINARY}\"]"), "EXPOSE 8080".to_owned(), "USER 65534:65534".to_owned()];
    let options = CreateImageOptionsBuilder::new().from_src("-").repo(repository).tag(tag).changes(changes).build();
    docker
        .create_image(Some(options), Some(bollard::body_full(archive)), None)
        .try_collect::<Vec<_>>()
        .await
        .with_context(|| format!("Docker did not import {}", built.name))?;
    if !exists(docker, &built.name).await? {
        bail!("Docker imported the image but does not know it as {}; is this Docker's own engine?", built.name);
    }
    Ok(())
}

/// The root file system of the image: one file, owned by root.
fn archive(folder: &Path) -> Result<Bytes> {
    let output = Command::new("tar")
        .args(["--create", "--owner=0", "--group=0", "--numeric-owner", "--mode=0755", "--directory"])
        .arg(folder)
        .arg(BINARY)
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run tar")?;
    if !output.status.success() {
        bail!("tar of {BINARY} in {} failed: {}", folder.display(), output.status);
    }
    Ok(output.stdout.into())
}

/// A static binary on disk and the name of its image.
struct Built {
    binary: PathBuf,
    name: String,
    stamp: PathBuf,
    began: SystemTime,
}

impl Built {
    /// Writes the name down, dated when the build began: a source edited while it was compiled counts as newer.
    fn remember(&self) -> Result<()> {
        let fresh = self.stamp.with_extension("new");
        let write = || -> io::Result<()> {
            fs::write(&fresh, &self.name)?;
            File::options().write(true).open(&fresh)?.set_modified(self.began)?;
            fs::rename(&fresh, &self.stamp)
        };
        write().with_context(|| format!("cannot write {}", self.stamp.display()))
    }
}

/// Where the demo is built: a target folder of its own, so that its flags do not throw out everybody else's work.
struct Workshop {
    root: PathBuf,
    target: PathBuf,
}

impl Workshop {
    fn new() -> Workshop {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
        Workshop { target: target.join("demo"), root }
    }

    fn stamp(&self) -> PathBuf {
        self.target.join("image.name")
    }

    /// The name that the last build gave, unless a source is newer.
    fn known_name(&self) -> Option<String> {
        let stamp = self.stamp();
        let built = fs::metadata(&stamp).and_then(|stamp| stamp.modified()).ok()?;
        let sources = ["Cargo.toml", "Cargo.lock", "dev/demo"].map(|path| self.root.join(path));
        let newest = sources
            .iter()
            .map(|path| newest_below(path))
            .try_fold(SystemTime::UNIX_EPOCH, |newest, one| one.map(|one| newest.max(one)));
        if newest.ok()? < built { fs::read_to_string(stamp).ok() } else { None }
    }

    fn lock(&self) -> Result<File> {
        let path = self.target.join("image.lock");
        let open = || -> io::Result<File> {
            fs::create_dir_all(&self.target)?;
            let file = File::create(&path)?;
            file.lock()?;
            Ok(file)
        };
        open().with_context(|| format!("cannot lock {}", path.display()))
    }

    fn build(&self) -> Result<Built> {
        let began = SystemTime::now();
        // Named, though it is the host's own: only then do the flags leave build scripts and macros alone.
        let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo
            .current_dir(&self.root)
            .args(["build", "--quiet", "--package", BINARY, "--profile", "demo", "--target", &triple, "--target-dir"])
            .arg(&self.target)
            .env("RUSTFLAGS", "-C target-feature=+crt-static")
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .env_remove("CARGO_BUILD_TARGET")
            .stdin(Stdio::null());
        let output = cargo.output().context("cannot run cargo for the demo's static build")?;
        if !output.status.success() {
            bail!("the demo's static build failed:\n{}", String::from_utf8_lossy(&output.stderr));
        }
        let binary = self.target.join(triple).join("demo").join(BINARY);
        let content = fs::read(&binary).with_context(|| format!("cannot read {}", binary.display()))?;
        let hash: String = Sha256::digest(&content).iter().take(TAG_BYTES).map(|byte| format!("{byte:02x}")).collect();
        Ok(Built { binary, name: format!("{REPOSITORY}:{hash}"), stamp: self.stamp(), began })
    }
}

fn newest_below(path: &Path) -> io::Result<SystemTime> {
    let about = fs::metadata(path)?;
    let mut newest = about.modified()?;
    if about.is_dir() {
        for entry in fs::read_dir(path)? {
            newest = newest.max(newest_below(&entry?.path())?);
        }
    }
    Ok(newest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workshop(folder: &Path) -> Workshop {
        fs::create_dir_all(folder.join("dev/demo/src")).unwrap();
        for file in ["Cargo.toml", "Cargo.lock", "dev/demo/src/main.rs"] {
            fs::write(folder.join(file), "").unwrap();
        }
        fs::create_dir_all(folder.join("target/demo")).unwrap();
        Workshop { root: folder.to_owned(), target: folder.join("target/demo") }
    }

    fn built(workshop: &Workshop, began: SystemTime) -> Built {
        Built { binary: PathBuf::new(), name: "plane/demo:1".to_owned(), stamp: workshop.stamp(), began }
    }

    #[test]
    fn a_name_is_known_until_a_source_changes() {
        let folder = tempfile::tempdir().unwrap();
        let workshop = workshop(folder.path());
        assert_eq!(workshop.known_name(), None);

        let source = File::options().write(true).open(folder.path().join("dev/demo/src/main.rs")).unwrap();
        let began = SystemTime::now() + std::time::Duration::from_secs(5);
        built(&workshop, began).remember().unwrap();
        assert_eq!(workshop.known_name().as_deref(), Some("plane/demo:1"));

        source.set_modified(began + std::time::Duration::from_secs(1)).unwrap();
        assert_eq!(workshop.known_name(), None);
    }
}
