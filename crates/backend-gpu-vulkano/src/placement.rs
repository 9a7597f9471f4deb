//! Which kind of a device's memory holds what: a pure function of what the driver lists.
//!
//! Where host and GPU share one memory, all lies in memory that both see at once, and weights are used where they are. A
//! GPU with memory of its own reads that ten times as fast as the host's, so there weights are copied into it when they are
//! loaded, and what only the GPU touches lies there too; tensors, which others read, stay in the host's memory.

use vulkano::device::physical::PhysicalDeviceType;
use vulkano::memory::{MemoryHeapFlags, MemoryProperties, MemoryPropertyFlags as Flags};

/// Whether weights are copied into memory of the GPU's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WeightMemory {
    /// Where the GPU has such.
    #[default]
    Detected,
    /// Never: host and GPU use the same, as GPUs inside a processor do.
    Shared,
    /// Always, and by way of a staging buffer, as GPUs do whose own memory the host does not reach.
    Separate,
}

/// What memory is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Read and written by host and GPU.
    Tensor,
    /// Written by the host and read by the GPU, both again and again.
    Parameters,
    /// Written once and read by the GPU again and again.
    Weights,
    /// Touched by the GPU only.
    Scratch,
}

/// What a driver lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeviceMemory {
    /// Types: what they are and of which heap.
    pub(crate) types: Vec<(Flags, usize)>,
    /// Heaps: bytes, and whether they are the device's.
    pub(crate) heaps: Vec<(u64, bool)>,
}

impl From<&MemoryProperties> for DeviceMemory {
    fn from(found: &MemoryProperties) -> DeviceMemory {
        let types = found.memory_types.iter().map(|kind| (kind.property_flags, kind.heap_index as usize));
        let is_own = |flags: MemoryHeapFlags| flags.intersects(MemoryHeapFlags::DEVICE_LOCAL);
        let heaps = found.memory_heaps.iter().map(|heap| (heap.size, is_own(heap.flags)));
        DeviceMemory { types: types.collect(), heaps: heaps.collect() }
    }
}

/// Where everything goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Placement {
    /// For each [`Purpose`], indices of types of memory, the best one first.
    types: [Vec<u32>; 4],
    /// Whether weights are copied into memory of the GPU's own, even if the GPU reaches them where they are.
    pub(crate) is_separate: bool,
    /// Whether the host does not reach that, or is not to, so that a staging buffer stands between.
    pub(crate) is_staged: bool,
}

/// What host and GPU see at once, without a word to the driver.
const COHERENT: Flags = Flags::HOST_VISIBLE.union(Flags::HOST_COHERENT);

/// What takes a feature that is not on, or is not memory for buffers.
const UNUSABLE: Flags = Flags::LAZILY_ALLOCATED
    .union(Flags::PROTECTED)
    .union(Flags::DEVICE_COHERENT)
    .union(Flags::DEVICE_UNCACHED)
    .union(Flags::RDMA_CAPABLE);

impl Placement {
    /// For a device of a kind with such memory.
    pub(crate) fn new(kind: PhysicalDeviceType, memory: &DeviceMemory, wanted: WeightMemory) -> Placement {
        let heaps = memory.heaps.iter().enumerate().filter(|(_, (_, is_own))| *is_own);
        let own_heap = heaps.max_by_key(|(_, (bytes, _))| *bytes).map(|(idx, _)| idx);
        let usable = || memory.types.iter().enumerate().filter(|(_, (flags, _))| !flags.intersects(UNUSABLE));
        // The host reaches all of the GPU's memory, not through a window of 256 MiB.
        let is_own_mapped = usable()
            .any(|(_, (flags, heap))| Some(*heap) == own_heap && flags.contains(Flags::DEVICE_LOCAL | COHERENT));
        let has_own = match kind {
            PhysicalDeviceType::DiscreteGpu => own_heap.is_some(),
            PhysicalDeviceType::IntegratedGpu | PhysicalDeviceType::Cpu => false,
            _ => own_heap.is_some() && !is_own_mapped,
        };
        let is_separate = match wanted {
            WeightMemory::Detected => has_own,
            WeightMemory::Shared => false,
            WeightMemory::Separate => true,
        };
        let is_staged = is_separate && (wanted == WeightMemory::Separate || !is_own_mapped);
        // Types with what is needed, by how much is wished for in this order; of equals the first in the driver's list.
        let best = |needed: Flags, wishes: &[&dyn Fn(usize, Flags) -> bool]| {
            let mut types: Vec<(u32, usize, Flags)> = usable()
                .filter(|(_, (flags, _))| flags.contains(needed))
                .map(|(idx, (flags, heap))| (idx as u32, *heap, *flags))
                .collect();
            types.sort_by_key(|&(_, heap, flags)| wishes.iter().map(|wish| !wish(heap, flags)).collect::<Vec<_>>());
            types.into_iter().map(|(idx, ..)| idx).collect::<Vec<u32>>()
        };
        let is_cached = |_: usize, flags: Flags| flags.contains(Flags::HOST_CACHED);
        let is_near = |_: usize, flags: Flags| flags.contains(Flags::DEVICE_LOCAL);
        let is_far = |heap: usize, flags: Flags| !is_near(heap, flags);
        let is_uncached = |heap: usize, flags: Flags| !is_cached(heap, flags);
        let is_own = |heap: usize, _: Flags| Some(heap) == own_heap;
        let is_mapped = |_: usize, flags: Flags| flags.contains(COHERENT) != is_staged;
        // Reading what is not cached is very slow for the host.
        let shared = best(COHERENT, &[&is_cached, &is_near]);
        let types = if is_separate {
            let own = best(Flags::DEVICE_LOCAL, &[&is_own, &is_mapped]);
            let mut scratch = best(Flags::DEVICE_LOCAL, &[&is_own, &|_, flags| !flags.contains(COHERENT)]);
            // What does not fit there is slow elsewhere, but it works.
            scratch.extend(shared.iter().filter(|idx| !own.contains(idx)));
            let tensors = best(COHERENT, &[&is_cached, &is_far]);
            [tensors, best(COHERENT, &[&is_near, &is_uncached]), own, scratch]
        } else {
            [shared.clone(), shared.clone(), shared.clone(), shared]
        };
        Placement { types, is_separate, is_staged }
    }

    /// The types of memory for a purpose, the best one first; those behind it are for when that is full.
    pub(crate) fn types(&self, purpose: Purpose) -> &[u32] {
        &self.types[match purpose {
            Purpose::Tensor => 0,
            Purpose::Parameters => 1,
            Purpose::Weights => 2,
            Purpose::Scratch => 3,
        }]
    }

    /// Whether a staging buffer stands between the host and what is for this.
    pub(crate) fn stages(&self, purpose: Purpose) -> bool {
        self.is_staged && matches!(purpose, Purpose::Weights | Purpose::Scratch)
    }
}

#[cfg(test)]
#[path = "placement_tests.rs"]
mod tests;
