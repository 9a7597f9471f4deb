//! How many threads serve best: one for each performance core that the process may use.

use std::fs;
use std::num::NonZeroUsize;

/// Number of performance cores that the process may use, at least 1.
///
/// A thread on a slow core holds up all others at every join, so cores whose highest clock (or capacity, where the
/// system gives that) is well below the best are left out.
pub fn performance_cores() -> usize {
    let available = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let speeds = core_speeds();
    match speeds.iter().max() {
        Some(&best) => {
            let fast = speeds.iter().filter(|&&speed| speed * 10 >= best * 7).count();
            fast.clamp(1, available)
        }
        None => available,
    }
}

/// A figure of speed for each core, as far as the system tells; all of one kind.
fn core_speeds() -> Vec<u64> {
    for figure in ["cpu_capacity", "cpufreq/cpuinfo_max_freq"] {
        let read = |core: usize| {
            let path = format!("/sys/devices/system/cpu/cpu{core}/{figure}");
            fs::read_to_string(path).ok()?.trim().parse().ok()
        };
        let speeds: Vec<u64> = (0..).map_while(read).collect();
        if !speeds.is_empty() {
            return speeds;
        }
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    #[test]
    fn there_is_at_least_one_core_and_no_more_than_there_are() {
        let cores = super::performance_cores();
        assert!((1..=std::thread::available_parallelism().unwrap().get()).contains(&cores));
    }
}
