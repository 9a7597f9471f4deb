//! Memory as drivers list it, and what goes where.

use vulkano::device::physical::PhysicalDeviceType::{self, Cpu, DiscreteGpu, IntegratedGpu, Other};

use super::*;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Device-local, host-visible, coherent, cached, as a driver's list has them.
const D: Flags = Flags::DEVICE_LOCAL;
const H: Flags = COHERENT;
const C: Flags = Flags::HOST_CACHED;
const AMD: Flags = Flags::DEVICE_COHERENT.union(Flags::DEVICE_UNCACHED);

struct Listed {
    name: &'static str,
    kind: PhysicalDeviceType,
    types: &'static [(Flags, usize)],
    heaps: &'static [(u64, bool)],
    is_separate: bool,
    is_staged: bool,
    /// The first choice for tensors, parameters, weights and scratch.
    first: [u32; 4],
}

const NONE: Flags = Flags::empty();

fn devices() -> [Listed; 10] {
    let device = |name, kind, types, heaps, (is_separate, is_staged), first| Listed {
        name,
        kind,
        types,
        heaps,
        is_separate,
        is_staged,
        first,
    };
    [
        device(
            "NVIDIA GeForce RTX 2080, window of 256 MiB",
            DiscreteGpu,
            const { &[(NONE, 1), (D, 0), (H, 1), (H.union(C), 1), (D.union(H), 2)] },
            &[(8 * GIB, true), (24 * GIB, false), (246 * MIB, true)],
            (true, true),
            [3, 4, 1, 1],
        ),
        device(
            "NVIDIA GeForce RTX 4090, resizable window",
            DiscreteGpu,
            const { &[(NONE, 1), (D, 0), (H, 1), (H.union(C), 1), (D.union(H), 0)] },
            &[(24 * GIB, true), (48 * GIB, false)],
            (true, false),
            [3, 4, 4, 1],
        ),
        device(
            "AMD Radeon RX 580 (RADV), window of 256 MiB",
            DiscreteGpu,
            const { &[(D, 0), (H, 1), (D.union(H), 2), (H.union(C), 1), (D.union(AMD), 0), (D.union(H).union(AMD), 2)] },
            &[(8 * GIB - 256 * MIB, true), (16 * GIB, false), (256 * MIB, true)],
            (true, true),
            [3, 2, 0, 0],
        ),
        device(
            "AMD Radeon RX 7900 XTX (RADV), resizable window",
            DiscreteGpu,
            const { &[(D, 0), (H, 1), (D.union(H), 0), (H.union(C), 1), (D.union(AMD), 0), (D.union(H).union(AMD), 0)] },
            &[(24 * GIB, true), (32 * GIB, false)],
            (true, false),
            [3, 2, 2, 0],
        ),
        device(
            "AMD Custom APU 0405 (Steam Deck)",
            IntegratedGpu,
            const { &[(D, 1), (H, 0), (D.union(H), 1), (H.union(C), 0), (D.union(AMD), 1)] },
            &[(4 * GIB, false), (8 * GIB, true)],
            (false, false),
            [3; 4],
        ),
        device(
            "Intel Iris Xe",
            IntegratedGpu,
            const { &[(D, 0), (D.union(H), 0), (D.union(H).union(C), 0)] },
            &[(15 * GIB, true)],
            (false, false),
            [2; 4],
        ),
        device(
            "Adreno 740",
            IntegratedGpu,
            const { &[(D, 0), (D.union(H), 0), (D.union(Flags::HOST_VISIBLE).union(C), 0), (D.union(H).union(C), 0)] },
            &[(11 * GIB, true)],
            (false, false),
            [3; 4],
        ),
        device(
            "Mali-G720, protected memory beside",
            IntegratedGpu,
            const {
                &[
                    (D.union(H).union(C), 0),
                    (D.union(H), 0),
                    (D.union(Flags::LAZILY_ALLOCATED), 0),
                    (D.union(Flags::PROTECTED), 0),
                ]
            },
            &[(11 * GIB, true)],
            (false, false),
            [0; 4],
        ),
        device("llvmpipe", Cpu, const { &[(D.union(H).union(C), 0)] }, &[(2 * GIB, true)], (false, false), [0; 4]),
        device(
            "a GPU of no kind that lists memory of its own",
            Other,
            const { &[(D, 0), (H, 1)] },
            &[(4 * GIB, true), (8 * GIB, false)],
            (true, true),
            [1, 1, 0, 0],
        ),
    ]
}

const PURPOSES: [Purpose; 4] = [Purpose::Tensor, Purpose::Parameters, Purpose::Weights, Purpose::Scratch];

#[test]
fn each_device_gets_what_suits_its_memory() {
    for Listed { name, kind, types, heaps, is_separate, is_staged, first } in devices() {
        let memory = DeviceMemory { types: types.to_vec(), heaps: heaps.to_vec() };
        let placement = Placement::new(kind, &memory, WeightMemory::Detected);
        assert_eq!((placement.is_separate, placement.is_staged), (is_separate, is_staged), "{name}");
        assert_eq!(PURPOSES.map(|purpose| placement.types(purpose)[0]), first, "{name}: {placement:?}");
        // What host and GPU share is mapped and coherent, whatever is full; nothing takes a feature.
        for purpose in PURPOSES {
            for &idx in placement.types(purpose) {
                let (flags, _) = types[idx as usize];
                assert!(!flags.intersects(UNUSABLE), "{name}: {purpose:?}");
                let is_shared = matches!(purpose, Purpose::Tensor | Purpose::Parameters) || !is_separate;
                assert!(!is_shared || flags.contains(COHERENT), "{name}: {purpose:?} in {flags:?}");
                assert!(purpose != Purpose::Weights || flags.contains(Flags::DEVICE_LOCAL) || !is_separate, "{name}");
            }
        }
    }
}

#[test]
fn users_can_say_otherwise() {
    for Listed { name, kind, types, heaps, .. } in devices() {
        let memory = DeviceMemory { types: types.to_vec(), heaps: heaps.to_vec() };
        let shared = Placement::new(kind, &memory, WeightMemory::Shared);
        assert!(!shared.is_separate && !shared.stages(Purpose::Weights), "{name}");
        let separate = Placement::new(kind, &memory, WeightMemory::Separate);
        assert!(separate.is_separate && separate.stages(Purpose::Weights), "{name}");
        assert!(!separate.stages(Purpose::Tensor) && !separate.stages(Purpose::Parameters), "{name}");
        assert!(PURPOSES.iter().all(|&purpose| !separate.types(purpose).is_empty()), "{name}");
    }
}
