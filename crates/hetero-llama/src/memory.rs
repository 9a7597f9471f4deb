//! Whether a model fits into memory, known before it is loaded.

use hetero_core::{DType, Op, WeightLayout};

use crate::LlamaError;
use crate::graph::ModelGraph;

/// Memory for everything else: activations, tokenizer, the program itself, one tensor of the file.
const RESERVE_BYTES: u64 = 300 << 20;

/// The shortest context that is worth loading a model for when memory decides.
const LEAST_CONTEXT: usize = 256;

/// How many bytes a model needs and how many there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fit {
    weight_bytes: u64,
    cache_bytes_per_position: u64,
    /// `None` when the system does not say; then nothing is refused.
    available_bytes: Option<u64>,
}

impl Fit {
    /// Works out the need of a graph's weights and of a KV cache with these elements.
    pub fn of(graph: &ModelGraph, cache: DType, available_bytes: Option<u64>) -> Fit {
        // Tables are small or stay in the mapped file.
        let in_panels = |layout: &WeightLayout| layout.arrangement == hetero_core::Arrangement::Panels;
        let layouts = graph.graph.weights().iter().map(|weight| weight.layout);
        let weight_bytes = layouts.filter(in_panels).map(|layout| layout.bytes() as u64).sum();
        let cache_columns = |op: &Op| match op {
            Op::CacheWrite { kv_heads, head_dim, .. } => kv_heads * head_dim,
            _ => 0,
        };
        let columns: usize = graph.graph.nodes().iter().map(|node| cache_columns(&node.op)).sum();
        Fit { weight_bytes, cache_bytes_per_position: (columns * cache.size()) as u64, available_bytes }
    }

    /// Bytes of a KV cache for so many positions.
    pub fn cache_bytes(&self, context: usize) -> u64 {
        self.cache_bytes_per_position * context as u64
    }

    /// The length of the KV cache: what is asked for, or else the model's limit lowered to what memory has room for.
    pub fn context(&self, asked: Option<usize>, model_limit: usize) -> Result<usize, LlamaError> {
        if let Some(asked) = asked
            && (asked == 0 || asked > model_limit)
        {
            return Err(LlamaError::BadContext { asked, limit: model_limit });
        }
        let wanted = asked.unwrap_or(model_limit);
        let Some(available_bytes) = self.available_bytes else { return Ok(wanted) };
        let room = available_bytes.saturating_sub(self.weight_bytes + RESERVE_BYTES);
        let fitting = (room / self.cache_bytes_per_position.max(1)).min(wanted as u64) as usize;
        if fitting == wanted || (asked.is_none() && fitting >= LEAST_CONTEXT) {
            return Ok(fitting);
        }
        Err(LlamaError::DoesNotFit {
            needed_bytes: self.weight_bytes + RESERVE_BYTES + self.cache_bytes(asked.unwrap_or(LEAST_CONTEXT)),
            available_bytes,
            weight_bytes: self.weight_bytes,
        })
    }
}

/// Memory that the process could still take without swapping, in bytes, where the system says so.
pub fn available_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    kilobytes(&text, "MemAvailable:")
}

/// The most memory that the process has had resident so far, in bytes, where the system says so.
pub fn peak_resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    kilobytes(&text, "VmHWM:")
}

/// A line of `/proc` such as `VmHWM:   1234 kB`, in bytes.
fn kilobytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kilobytes| kilobytes << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODEL: Fit = Fit { weight_bytes: 1 << 30, cache_bytes_per_position: 1 << 20, available_bytes: Some(2 << 30) };

    #[test]
    fn memory_lowers_the_context_only_when_nobody_asked_for_one() {
        let room = (2048 - 1024 - 300) as usize;
        assert_eq!(MODEL.context(None, 4096).unwrap(), room);
        assert_eq!(MODEL.context(None, 500).unwrap(), 500);
        assert_eq!(MODEL.context(Some(600), 4096).unwrap(), 600);
        assert!(matches!(MODEL.context(Some(1000), 4096), Err(LlamaError::DoesNotFit { .. })));
        assert!(matches!(MODEL.context(Some(5000), 4096), Err(LlamaError::BadContext { .. })));
        assert!(matches!(MODEL.context(Some(0), 4096), Err(LlamaError::BadContext { .. })));
        let unknown = Fit { available_bytes: None, ..MODEL };
        assert_eq!(unknown.context(None, 1 << 20).unwrap(), 1 << 20);
    }

    #[test]
    fn lines_of_proc_are_read() {
        assert_eq!(kilobytes("VmPeak: 5 kB\nVmHWM:\t   12 kB\n", "VmHWM:"), Some(12 << 10));
        assert_eq!(kilobytes("", "VmHWM:"), None);
    }
}
