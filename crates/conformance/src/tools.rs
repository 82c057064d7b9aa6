//! What the client programs need: found on the machine, or installed into one directory of the build directory.
//!
//! The language runtimes themselves are expected; a missing one is an error with a clear text, never a skip. Everything
//! else is installed once and again only when its list of versions changes.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::programs::{Language, Program, sources};

const MAVEN_COPY: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies";

/// The installed tools of all languages.
#[derive(Clone, Debug)]
pub struct Tools {
    directory: PathBuf,
}

impl Tools {
    /// Tools that live in `directory`; nothing is installed yet.
    pub fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    /// Installs what `programs` need.
    pub fn install(&self, programs: &[Program]) -> Result<()> {
        fs::create_dir_all(&self.directory)?;
        let languages: BTreeSet<Language> = programs.iter().map(|program| program.language).collect();
        for language in languages {
            self.install_language(language).with_context(|| format!("prepare the {language:?} clients"))?;
        }
        Ok(())
    }

    /// Installs what the programs of one language need.
    pub fn install_language(&self, language: Language) -> Result<()> {
        match language {
            Language::Go => self.install_go(),
            Language::Java => self.install_java(),
            Language::Node => self.install_node(),
            Language::Python => self.install_python(),
            Language::Rust => self.check_rust(),
            Language::Shell => install_debian(),
        }
    }

    /// Installs the distribution's `package` unless its `program` is there.
    pub fn install_debian_package(&self, program: &str, package: &str) -> Result<()> {
        install_packages(&[(program, package)])
    }

    /// Builds a program of a Go module in `version` unless that was done; returns its path.
    pub fn install_go_program(&self, package: &str, version: &str) -> Result<PathBuf> {
        let name = package.rsplit('/').next().unwrap_or(package);
        let home = self.directory.join("go-programs").join(name);
        let runtime = runtime("go", "version", "Go 1.26 or newer")?;
        let wanted = format!("{package}@{version}");
        installed_once(&home, &[], &format!("{runtime}{wanted}"), || {
            say(&format!("go: building {wanted} in {}; it takes a few minutes", home.display()));
            fs::create_dir_all(&home)?;
            let bin = fs::canonicalize(&home)?;
            run_quietly(Command::new("go").args(["install", &wanted]).env("GOBIN", bin))
        })?;
        Ok(home.join(name))
    }

    /// The command that runs `entry`.
    pub fn command(&self, language: Language, entry: &str) -> Command {
        let script = |folder: &str| sources().join(folder).join(entry);
        let mut command = match language {
            Language::Go => Command::new(self.directory.join("go/clients")),
            Language::Java => {
                let mut java = Command::new("java");
                // Short-lived: the first compiler tier is quicker to the end.
                java.args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]);
                java.arg("-cp").arg(self.class_path()).arg("posthaste.conformance.Main");
                java
            }
            Language::Node => {
                let mut node = Command::new("node");
                node.env("NODE_PATH", self.directory.join("node/node_modules"));
                node
            }
            Language::Python => {
                let mut python = Command::new(self.python());
                python.env("PYTHONUNBUFFERED", "1").env("PYTHONDONTWRITEBYTECODE", "1");
                python
            }
            Language::Rust => Command::new(rust_clients()),
            Language::Shell => Command::new("bash"),
        };
        match language {
            Language::Node => command.arg(script("node")),
            Language::Python => command.arg(script("python")),
            Language::Shell => command.arg(script("shell")),
            Language::Go | Language::Java | Language::Rust => command.arg(entry),
        };
        command
    }

    fn python(&self) -> PathBuf {
        self.directory.join("python/bin/python")
    }

    fn class_path(&self) -> String {
        let java = self.directory.join("java");
        format!("{}:{}/*", java.join("classes").display(), java.join("lib").display())
    }

    fn install_python(&self) -> Result<()> {
        let version = runtime("python3", "--version", "Python 3.10 or newer")?;
        let list = sources().join("python/requirements.txt");
        let home = self.directory.join("python");
        installed_once(&home, &[&list], &version, || {
            say(&format!(
                "python: a virtual environment in {} with the clients of requirements.txt",
                home.display()
            ));
            run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&home))
                .context("python3 -m venv failed; Debian keeps it in the package python3-venv")?;
            run(Command::new(self.python())
                .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"])
                .arg(&list))
        })
    }

    fn install_node(&self) -> Result<()> {
        let version = runtime("node", "--version", "Node 20 or newer")?;
        runtime("npm", "--version", "npm, which comes with Node")?;
        let (list, lock) = (sources().join("node/package.json"), sources().join("node/package-lock.json"));
        let home = self.directory.join("node");
        installed_once(&home, &[&list, &lock], &version, || {
            say(&format!("node: the packages of package-lock.json in {}", home.display()));
            fs::create_dir_all(&home)?;
            for file in [&list, &lock] {
                fs::copy(file, home.join(file.file_name().unwrap_or_default()))?;
            }
            run(Command::new("npm")
                .args(["ci", "--no-audit", "--no-fund", "--loglevel", "error"])
                .current_dir(&home))
        })
    }

    fn install_java(&self) -> Result<()> {
        let version = runtime("java", "-version", "a Java 17 runtime")?;
        runtime("javac", "-version", "a Java 17 development kit")?;
        runtime("mvn", "--version", "Maven")?;
        let folder = sources().join("java");
        let pom = folder.join("pom.xml");
        let home = self.directory.join("java");
        let mut sources: Vec<PathBuf> = files_in(&folder.join("src"))?;
        sources.sort();
        let watched: Vec<&PathBuf> = sources.iter().chain([&pom]).collect();
        installed_once(&home, &watched, &version, || {
            say(&format!("java: the artifacts of pom.xml in {}", home.display()));
            run_quietly(
                Command::new("mvn")
                    .args(["--quiet", "--batch-mode", "--file"])
                    .arg(&pom)
                    .arg(MAVEN_COPY)
                    .arg(format!("-DoutputDirectory={}", home.join("lib").display())),
            )?;
            say("java: compiling the client programs");
            run(Command::new("javac")
                .args(["-Xlint:all,-processing", "-d"])
                .arg(home.join("classes"))
                .args(["-cp", &format!("{}/*", home.join("lib").display())])
                .args(&sources))
        })
    }

    fn install_go(&self) -> Result<()> {
        let version = runtime("go", "version", "Go 1.26 or newer")?;
        let folder = sources().join("go");
        let home = self.directory.join("go");
        let mut watched = files_in(&folder)?;
        watched.sort();
        installed_once(&home, &watched.iter().collect::<Vec<_>>(), &version, || {
            say(&format!(
                "go: building the client programs in {} with the modules of go.sum",
                home.display()
            ));
            run(Command::new("go")
                .args(["build", "-mod=readonly", "-trimpath", "-o"])
                .arg(home.join("clients"))
                .arg(".")
                .current_dir(&folder))
        })
    }

    fn check_rust(&self) -> Result<()> {
        if !rust_clients().exists() {
            bail!("{} is missing: cargo build -p posthaste-conformance", rust_clients().display());
        }
        Ok(())
    }
}

/// The Rust client programs stand next to this program.
fn rust_clients() -> PathBuf {
    let here = env::current_exe().unwrap_or_default();
    here.with_file_name("conformance-rust")
}

/// `kcat` and the Mosquitto clients come from the distribution.
fn install_debian() -> Result<()> {
    install_packages(&[
        ("kcat", "kcat"),
        ("mosquitto_pub", "mosquitto-clients"),
        ("mosquitto_sub", "mosquitto-clients"),
    ])
}

/// Installs the packages of those programs that are missing.
fn install_packages(wanted: &[(&str, &str)]) -> Result<()> {
    let mut missing: Vec<&str> =
        wanted.iter().filter(|(binary, _)| !on_path(binary)).map(|(_, package)| *package).collect();
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    let packages = missing.join(" ");
    if !on_path("apt-get") {
        bail!("missing on this machine: {packages}; install them with the distribution's package manager");
    }
    let mut prefix: Vec<&str> = Vec::new();
    if !is_root() {
        let allowed =
            Command::new("sudo").args(["-n", "true"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
        if !allowed.is_ok_and(|status| status.success()) {
            bail!("missing on this machine: {packages}; install them with: sudo apt-get install {packages}");
        }
        prefix = vec!["sudo", "-n"];
    }
    say(&format!("debian: apt-get install {packages}"));
    let apt = |arguments: &[&str]| {
        let mut words = prefix.clone();
        words.extend(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-o", "Dpkg::Use-Pty=0"]);
        words.extend(arguments);
        run(Command::new(words[0]).args(&words[1..]).stdout(Stdio::null()))
    };
    apt(&["update"])?;
    let mut install = vec!["install", "--yes", "--no-install-recommends"];
    install.extend(missing.iter());
    apt(&install)
}

fn is_root() -> bool {
    let answer = Command::new("id").arg("-u").output();
    answer.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

fn on_path(binary: &str) -> bool {
    env::var_os("PATH")
        .is_some_and(|path| env::split_paths(&path).any(|folder| folder.join(binary).is_file()))
}

/// The version text of a runtime, or an error that says what to install.
fn runtime(binary: &str, flag: &str, wanted: &str) -> Result<String> {
    match Command::new(binary).arg(flag).output() {
        Ok(output) if output.status.success() => {
            let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
            Ok(String::from_utf8_lossy(&text).into_owned())
        }
        Ok(output) => bail!("{binary} {flag} failed ({}); the client programs need {wanted}", output.status),
        Err(_) => bail!("{binary} is not installed; the client programs need {wanted}"),
    }
}

/// Runs `install` unless `home` was installed from the same files with the same runtime.
fn installed_once(
    home: &Path,
    files: &[&PathBuf],
    version: &str,
    install: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let mut stamp = version.to_owned();
    for file in files {
        let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        stamp.push_str(&text);
    }
    let marker = home.join("installed-from");
    if fs::read_to_string(&marker).is_ok_and(|text| text == stamp) {
        return Ok(());
    }
    if home.exists() {
        fs::remove_dir_all(home)?;
    }
    install()?;
    fs::create_dir_all(home)?;
    fs::write(&marker, stamp)?;
    Ok(())
}

fn files_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(files_in(&path)?);
        } else {
            files.push(path);
        }
    }
    Ok(files)
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("run {:?}", command.get_program()))?;
    if !status.success() {
        bail!("{command:?} failed: {status}");
    }
    Ok(())
}

/// As `run`; shows what the command says only when it fails.
fn run_quietly(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("run {:?}", command.get_program()))?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        bail!("{command:?} failed: {}\n{}", output.status, String::from_utf8_lossy(&said));
    }
    Ok(())
}

fn say(text: &str) {
    println!("-- {text}");
}
