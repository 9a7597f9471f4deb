//! What a machine is like for hetero, and what keeps it from being better: every processor looked at closely.

use std::time::SystemTime;

use hetero_core::{OpSpec, WeightFormat};
use hetero_sched::profile::{Noise, Profile, ProfileFolder};

use crate::LlamaError;
use crate::backends::{self, Availability, DeviceOptions, DeviceStatus};
use crate::config::ModelConfig;
use crate::memory;
use crate::model::{self, ModelOptions};

/// The built-in shape whose operators GPU drivers are tried at.
const TRIED_SHAPE: &str = "llama-3.2-1b";

/// How long a profile is taken for what the machine still is.
const FRESH_DAYS: u64 = 90;

/// What was found about one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it is about: a processor, `memory`, `profiles`.
    pub subject: String,
    /// How it is.
    pub health: Health,
    /// What was found.
    pub text: String,
    /// What the user can do about it.
    pub fix: Option<String>,
}

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// As it should be.
    Good,
    /// Worth knowing.
    Note,
    /// In the way.
    Trouble,
}

/// Looks at the machine: memory, every real processor, what was measured of them.
///
/// GPU drivers are tried at the operators of a Llama in every weight format, as far as that is not remembered.
pub fn examine(options: &DeviceOptions, profiles: Option<&ProfileFolder>) -> Result<Vec<Finding>, LlamaError> {
    let mut findings = vec![of_memory()];
    let mut versions = Vec::new();
    let specs = specs(options)?;
    for device in backends::list(options)?.into_iter().filter(|device| !device.is_simulated) {
        let examined = match &device.availability {
            Availability::Usable { .. } => Some(backends::examine(&device.name, options, &specs)?),
            _ => None,
        };
        findings.push(of_device(&device, examined.as_ref().is_some_and(|examined| examined.is_software)));
        if let Some(examined) = examined {
            versions.push((device.name.clone(), examined.backend.info().version.clone()));
            findings.extend(of_instructions(&device.name));
            findings.extend(examined.trials.map(|trials| of_trials(&device.name, &trials)));
        }
    }
    findings.extend(profiles.map(|folder| of_profiles(folder, &versions)));
    Ok(findings)
}

fn finding(subject: &str, health: Health, text: String, fix: Option<String>) -> Finding {
    Finding { subject: subject.to_owned(), health, text, fix }
}

/// The operators of a Llama in every weight format, each once.
fn specs(options: &DeviceOptions) -> Result<Vec<OpSpec>, LlamaError> {
    let config = ModelConfig::shape(TRIED_SHAPE).expect("the shape is a built-in one");
    let mut specs: Vec<OpSpec> = Vec::new();
    for format in WeightFormat::ALL {
        let options = ModelOptions { weights: Some(format), devices: options.clone(), ..ModelOptions::default() };
        let graph_options = model::graph_options(TRIED_SHAPE, &config, &options, WeightFormat::Bf16)?;
        let graph = model::prefill_graph(&config, graph_options).graph;
        for idx in 0..graph.nodes().len() {
            let spec = graph.op_spec(hetero_core::NodeId(idx));
            if !specs.contains(&spec) {
                specs.push(spec);
            }
        }
    }
    Ok(specs)
}

fn of_memory() -> Finding {
    const GIB: f64 = (1u64 << 30) as f64;
    match memory::available_bytes() {
        Some(bytes) if bytes < 1 << 30 => finding(
            "memory",
            Health::Trouble,
            format!("{:.1} GiB are available", bytes as f64 / GIB),
            Some("end other programs, or take a model with fewer parameters and `--weights w4g32`".into()),
        ),
        Some(bytes) => {
            // Of a model in 4 bits, half a byte and a sixteenth of two for each weight; a quarter is left for the cache.
            let billions = bytes as f64 * 0.75 / (4.5 / 8.0) / 1e9;
            let text = format!(
                "{:.1} GiB are available, enough for about {billions:.1} billion weights in 4 bits",
                bytes as f64 / GIB
            );
            finding("memory", Health::Good, text, None)
        }
        None => finding("memory", Health::Note, "this system does not say how much is available".into(), None),
    }
}

fn of_device(device: &DeviceStatus, is_software: bool) -> Finding {
    match &device.availability {
        Availability::Usable { description } if is_software => finding(
            &device.name,
            Health::Note,
            format!("{description}: a program on the CPU, for tests and not for speed"),
            Some("if there is a GPU, install its own Vulkan driver".into()),
        ),
        Availability::Usable { description } => finding(&device.name, Health::Good, description.clone(), None),
        Availability::Unusable { reason, fix } => {
            finding(&device.name, Health::Trouble, reason.clone(), Some(fix.clone()))
        }
        Availability::Absent { reason, fix } => finding(&device.name, Health::Note, reason.clone(), Some(fix.clone())),
    }
}

/// The instruction sets that the CPU's kernels exist for.
fn of_instructions(name: &str) -> Option<Finding> {
    #[cfg(feature = "cpu-simd")]
    if name == "cpu" {
        let names: Vec<&str> = backends::instruction_sets();
        let best = names.last().copied().unwrap_or_default();
        let text = format!("instruction sets {}", names.join(", "));
        let is_plain = names.len() < 2;
        let fix = is_plain.then(|| "nothing: this CPU has no vector instructions that hetero knows".to_owned());
        let health = if is_plain { Health::Note } else { Health::Good };
        return Some(finding(
            name,
            health,
            format!("{text}; {best} is used unless HETERO_CPU_ISA says otherwise"),
            fix,
        ));
    }
    let _ = name;
    None
}

fn of_trials(name: &str, trials: &[backends::Trial]) -> Finding {
    let wrong: Vec<&backends::Trial> = trials.iter().filter(|trial| trial.trouble.is_some()).collect();
    let Some(worst) = wrong.iter().find(|trial| !trial.is_usable).or(wrong.first()) else {
        let text = format!("the driver computes all of {} kinds of operators right", trials.len());
        return finding(name, Health::Good, text, None);
    };
    let n_unusable = wrong.iter().filter(|trial| !trial.is_usable).count();
    let text = format!(
        "the driver computes {} of {} kinds of operators wrong, {n_unusable} of them in every form; {}: {}",
        wrong.len(),
        trials.len(),
        worst.what,
        worst.trouble.as_deref().unwrap_or_default(),
    );
    let health = if n_unusable > 0 { Health::Trouble } else { Health::Note };
    finding(name, health, text, Some("update the GPU's driver; it is tried again then".into()))
}

/// Whether what was measured is of the processors as they are now.
fn of_profiles(folder: &ProfileFolder, versions: &[(String, String)]) -> Finding {
    let place = folder.path().display();
    let files = std::fs::read_dir(folder.path()).map(|files| files.flatten().collect::<Vec<_>>()).unwrap_or_default();
    let (mut n_fresh, mut stale, mut old, mut noisiest) = (0, Vec::new(), Vec::new(), Noise::default());
    for file in files.iter().filter(|file| file.path().extension().is_some_and(|extension| extension == "json")) {
        let name = file.file_name().to_string_lossy().into_owned();
        let age = file.metadata().and_then(|facts| facts.modified()).ok();
        let age = age.and_then(|modified| SystemTime::now().duration_since(modified).ok());
        match is_of(&file.path(), versions) {
            None | Some(false) => stale.push(name),
            Some(true) if age.is_some_and(|age| age.as_secs() > FRESH_DAYS * 86_400) => old.push(name),
            Some(true) => {
                n_fresh += 1;
                let noise = noise_of(&file.path()).filter(|noise| noise.is_busy() && noise.spread >= noisiest.spread);
                noisiest = noise.unwrap_or(noisiest);
            }
        }
    }
    let anew = || Some("nothing: a run measures what it needs; `hetero profile --fresh` measures all of it now".into());
    if !stale.is_empty() || !old.is_empty() {
        let text = format!(
            "{n_fresh} up to date, {} of other drivers, versions or processors ({}), {} older than {FRESH_DAYS} days, in {place}",
            stale.len(),
            stale.iter().chain(&old).cloned().collect::<Vec<_>>().join(", "),
            old.len(),
        );
        return finding("profiles", Health::Note, text, anew());
    }
    if noisiest.is_busy() {
        let text = format!(
            "{n_fresh} up to date, but the machine was busy when they were made: spread {:.0} %, in {place}",
            100.0 * noisiest.spread
        );
        return finding("profiles", Health::Note, text, Some("run `hetero profile` when it is idle".into()));
    }
    match n_fresh {
        0 => finding("profiles", Health::Note, format!("nothing was measured yet, in {place}"), anew()),
        n => finding("profiles", Health::Good, format!("{n} up to date, in {place}"), None),
    }
}

/// How busy the machine was when a profile was made; `None` when it is none.
fn noise_of(file: &std::path::Path) -> Option<Noise> {
    let profile: Profile = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
    Some(profile.noise())
}

/// Whether a profile is of processors as they are; `None` when it is none.
fn is_of(file: &std::path::Path, versions: &[(String, String)]) -> Option<bool> {
    let document: serde_json::Value = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
    let mut devices = document["devices"].as_array()?.iter();
    // GPUs are listed with their numbers, and measured under the name that the user gave.
    let is_same = |device: &serde_json::Value| {
        let identity = &device["identity"];
        let (name, version) = (identity["name"].as_str()?, identity["version"].as_str()?);
        let mut known = versions.iter().filter(|(known, _)| known == name || known.split(':').next() == Some(name));
        // Simulated processors are not looked at here; their files follow their SoC.
        Some(name.ends_with("-sim") || known.any(|(_, known)| known == version))
    };
    devices.try_fold(true, |all, device| Some(all && is_same(device)?))
}
