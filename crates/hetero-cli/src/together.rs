//! The options of how several processors share the work.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::ValueEnum;
use etcetera::{BaseStrategy, choose_base_strategy};
use hetero_llama::Mode;
use hetero_llama::team::{DynamicLength, Method, Objective, TogetherOptions};
use hetero_sched::profile::ProfileFolder;

/// The environment variable with the folder of profiles.
pub(crate) const PROFILES_VARIABLE: &str = "HETERO_PROFILES";

/// How several processors share the work.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Several processors")]
pub(crate) struct TogetherArgs {
    /// Who computes: cpu-only, gpu-only, npu-only, layer (whole operators on GPU or NPU), tensor (operators cut between
    /// both), tensor-3 (the CPU computes too) [default: all that may be used, operators cut between them]
    #[arg(long, value_name = "MODE")]
    mode: Option<Mode>,
    #[command(flatten)]
    plan: PlanArgs,
    /// Folder in which measurements are kept from one run to the next [default: $HETERO_PROFILES, or the user's folder
    /// for caches]
    #[arg(long, value_name = "FOLDER")]
    profiles: Option<PathBuf>,
}

/// What plans are looked for; the same on simulated and on real processors.
#[derive(Debug, clap::Args)]
pub(crate) struct PlanArgs {
    /// How plans are found: `whole-layer`, or `paper` for each operator alone as HeteroLLM does
    #[arg(long, value_name = "METHOD", default_value = "whole-layer")]
    method: MethodName,
    /// What an NPU does with a prompt for whose length it has no graph: `tensor` for whatever is fastest, `padding`,
    /// `online` to compile one, `pipe` for standard lengths in sequence
    #[arg(long, value_name = "STRATEGY", default_value = "tensor")]
    dynamic: DynamicName,
    /// What plans make small: `time`, `energy`, or a number for time plus so many seconds for each joule
    #[arg(long, value_name = "WHAT", default_value = "time")]
    objective: ObjectiveName,
    /// Megabytes of weights that processors may hold as copies of their own, for prompts and replies together [default:
    /// any number]
    #[arg(long, value_name = "MB")]
    memory_budget: Option<u64>,
    /// Run the same plan without fast synchronisation: copy what crosses between processors, and let their drivers finish
    /// at every crossing
    #[arg(long)]
    no_fast_sync: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum MethodName {
    WholeLayer,
    Paper,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DynamicName {
    Tensor,
    Padding,
    Online,
    Pipe,
}

/// What is to be small, as users write it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct ObjectiveName(Objective);

impl TogetherArgs {
    /// Where measurements and what is known of GPU drivers are kept.
    pub(crate) fn cache(&self) -> Option<PathBuf> {
        profile_folder(self.profiles.as_deref()).map(|folder| folder.path().to_path_buf())
    }

    /// How the processors of a run work together.
    pub(crate) fn options(&self, is_strict: bool) -> TogetherOptions {
        TogetherOptions { is_strict, ..self.plan.together(self.mode, self.profiles.as_deref()) }
    }
}

/// The environment variable that says which variants of GPU kernels are used.
const KERNELS_VARIABLE: &str = "HETERO_GPU_KERNELS";

/// Which variants of GPU kernels the user wants.
pub(crate) fn gpu_kernels() -> Option<String> {
    std::env::var(KERNELS_VARIABLE).ok()
}

/// Where measurements are kept; `None` where the system has no place for it.
pub(crate) fn profile_folder(given: Option<&Path>) -> Option<ProfileFolder> {
    let given = given.map(Path::to_path_buf).or_else(|| std::env::var_os(PROFILES_VARIABLE).map(PathBuf::from));
    let given = given.filter(|folder| !folder.as_os_str().is_empty());
    let usual = || Some(choose_base_strategy().ok()?.cache_dir().join("hetero").join("profiles"));
    given.or_else(usual).map(ProfileFolder::new)
}

impl PlanArgs {
    /// How processors work together in a mode, with measurements kept in `profiles` or the usual place.
    pub(crate) fn together(&self, mode: Option<Mode>, profiles: Option<&Path>) -> TogetherOptions {
        TogetherOptions {
            mode,
            method: self.method(),
            dynamic_length: self.dynamic_length(),
            objective: self.objective(),
            memory_budget: self.memory_budget(),
            fast_sync: self.is_fast_sync(),
            profiles: profile_folder(profiles),
            ..TogetherOptions::default()
        }
    }

    /// By what plans are found.
    pub(crate) fn method(&self) -> Method {
        match self.method {
            MethodName::WholeLayer => Method::WholeLayer,
            MethodName::Paper => Method::Paper,
        }
    }

    /// What an NPU does with a prompt for whose length it has no graph.
    pub(crate) fn dynamic_length(&self) -> DynamicLength {
        match self.dynamic {
            DynamicName::Tensor => DynamicLength::Tensor,
            DynamicName::Padding => DynamicLength::Padding,
            DynamicName::Online => DynamicLength::Online,
            DynamicName::Pipe => DynamicLength::Pipe,
        }
    }

    /// What they make small.
    pub(crate) fn objective(&self) -> Objective {
        self.objective.0
    }

    /// Bytes of weights that processors may hold as copies of their own.
    pub(crate) fn memory_budget(&self) -> Option<u64> {
        self.memory_budget.map(|megabytes| megabytes.saturating_mul(1_000_000))
    }

    /// Whether processors share memory and meet fast.
    pub(crate) fn is_fast_sync(&self) -> bool {
        !self.no_fast_sync
    }
}

impl FromStr for ObjectiveName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "time" => Ok(ObjectiveName(Objective::Time)),
            "energy" => Ok(ObjectiveName(Objective::Energy)),
            number => match number.parse::<f64>() {
                Ok(seconds_per_joule) if seconds_per_joule.is_finite() && seconds_per_joule > 0.0 => {
                    Ok(ObjectiveName(Objective::Mixed { seconds_per_joule }))
                }
                _ => Err("expected time, energy, or a number of seconds above 0 that a joule is worth".to_owned()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objectives_are_read() {
        let read = |text: &str| text.parse::<ObjectiveName>().map(|objective| objective.0);
        assert_eq!(read("time"), Ok(Objective::Time));
        assert_eq!(read("energy"), Ok(Objective::Energy));
        assert_eq!(read("0.3"), Ok(Objective::Mixed { seconds_per_joule: 0.3 }));
        for wrong in ["", "speed", "-1", "0", "NaN", "inf", "0,3"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
