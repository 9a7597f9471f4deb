//! What a step needs on the machine, whether it is there, and how to get it.

use super::command::Invocation;
use std::env;
use std::path::Path;
use std::process::{Command, Stdio};

/// Something that a step cannot do without.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Need {
    /// A program on the search path, from a Debian package.
    Program {
        /// Name of the program.
        program: &'static str,
        /// Debian package that has it.
        package: &'static str,
    },
    /// A file, from a Debian package.
    File {
        /// Absolute path of the file.
        path: &'static str,
        /// Debian package that has it.
        package: &'static str,
    },
    /// The standard library of another platform, from rustup.
    Target(&'static str),
    /// A component of the default toolchain that brings a cargo subcommand.
    Component {
        /// Subcommand of cargo.
        command: &'static str,
        /// Name in rustup.
        component: &'static str,
    },
    /// Some nightly toolchain.
    Nightly,
    /// miri and the library sources that it compiles, on the nightly toolchain.
    NightlyMiri,
    /// A cargo subcommand from the registry.
    CargoTool {
        /// Subcommand of cargo.
        command: &'static str,
        /// Crate that has it.
        package: &'static str,
    },
}

impl Need {
    /// True if it is on this machine.
    pub(crate) fn is_met(self) -> bool {
        match self {
            Self::Program { program, .. } => on_search_path(program),
            Self::File { path, .. } => Path::new(path).exists(),
            Self::Target(target) => has_target(target),
            Self::Component { command, .. } | Self::CargoTool { command, .. } => {
                succeeds("cargo", &[command, "--version"])
            }
            Self::Nightly => has_nightly(),
            Self::NightlyMiri => {
                has_nightly() && succeeds("cargo", &["+nightly", "miri", "--version"]) && has_nightly_sources()
            }
        }
    }

    /// What it is, in words.
    pub(crate) fn title(self) -> String {
        match self {
            Self::Program { program, .. } => format!("program {program}"),
            Self::File { path, .. } => format!("file {path}"),
            Self::Target(target) => format!("Rust target {target}"),
            Self::Component { component, .. } => format!("component {component}"),
            Self::Nightly => "nightly toolchain".to_owned(),
            Self::NightlyMiri => "miri on a nightly toolchain".to_owned(),
            Self::CargoTool { command, .. } => format!("cargo {command}"),
        }
    }

    /// The Debian package to install, if that is the way.
    fn debian_package(self) -> Option<&'static str> {
        match self {
            Self::Program { package, .. } | Self::File { package, .. } => Some(package),
            _ => None,
        }
    }

    /// The command that brings it, if it is not a Debian package.
    fn rust_command(self) -> Option<Invocation> {
        let rustup = |line: &str| Some(Invocation::new("rustup").words(line));
        match self {
            Self::Program { .. } | Self::File { .. } => None,
            Self::Target(target) => rustup(&format!("target add {target}")),
            Self::Component { component, .. } => rustup(&format!("component add {component}")),
            Self::Nightly => rustup("toolchain install nightly --profile minimal"),
            Self::NightlyMiri => rustup("component add miri rust-src --toolchain nightly"),
            // A tool that reads a few files: compile time matters, its own speed does not.
            Self::CargoTool { package, .. } => Some(
                Invocation::cargo("install --locked")
                    .arg(package)
                    .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0")
                    .env("CARGO_PROFILE_RELEASE_LTO", "off")
                    .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "256")
                    .env("CARGO_PROFILE_RELEASE_STRIP", "debuginfo"),
            ),
        }
    }
}

/// The commands that bring all that is missing of `needs`, Debian's packages together in one.
pub(crate) fn remedies(needs: &[Need]) -> Vec<Invocation> {
    let missing: Vec<Need> = needs.iter().copied().filter(|n| !n.is_met()).collect();
    let mut packages: Vec<&str> = missing.iter().filter_map(|n| n.debian_package()).collect();
    packages.sort_unstable();
    packages.dedup();
    let mut commands = Vec::new();
    if !packages.is_empty() {
        let install = Invocation::new("apt-get").words("install -y --no-install-recommends").words(&packages.join(" "));
        commands.push(Invocation::new("apt-get").words("update"));
        commands.push(install.env("DEBIAN_FRONTEND", "noninteractive"));
    }
    // A whole toolchain is the user's choice: it is named, never installed.
    let rust = missing.iter().filter(|n| **n != Need::Nightly);
    commands.extend(rust.filter_map(|n| n.rust_command()));
    commands
}

/// Runs [`remedies`]; each is tried twice, for a registry may be busy, and a failure is left to the step that misses it.
pub(crate) fn install(needs: &[Need], log_dir: &Path) {
    for (index, command) in remedies(needs).into_iter().enumerate() {
        println!("    $ {command}");
        let log = log_dir.join(format!("install-{index}.log"));
        let worked = (0..2).any(|_| {
            let finished = command.run_logged(&log, false);
            finished.is_ok_and(|finished| finished.success)
        });
        if !worked {
            println!("    this failed twice; see {}", log.display());
        }
    }
}

fn succeeds(program: &str, args: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn stdout_of(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then_some(text)
}

fn on_search_path(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Asked of rustup first: `cargo +nightly` may otherwise download a whole toolchain.
fn has_nightly() -> bool {
    stdout_of("rustup", &["toolchain", "list"])
        .is_some_and(|list| list.lines().any(|line| line.starts_with("nightly-") || line.starts_with("nightly ")))
}

fn has_nightly_sources() -> bool {
    stdout_of("rustc", &["+nightly", "--print", "sysroot"])
        .is_some_and(|sysroot| Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/std").exists())
}

fn has_target(target: &str) -> bool {
    stdout_of("rustc", &["--print", "target-libdir", "--target", target])
        .is_some_and(|folder| Path::new(folder.trim()).exists())
}
