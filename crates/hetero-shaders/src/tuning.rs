//! Which shape of work a device gets: the one table of it, and why.
//!
//! No shape changes a result: every number is the sum of the same products in the same order, whichever invocation
//! computes it. So the table is about time alone, and [`crate::Knobs`] overrides it, as in `tiles=small`.

use std::fmt;

/// What a device says about its workgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Whether it is a program on the CPU.
    pub is_software: bool,
    /// Bytes of memory that a workgroup shares.
    pub workgroup_bytes: u32,
    /// Invocations of a workgroup.
    pub workgroup_invocations: u32,
    /// Units that multiply matrices of 16-bit floats and add in f32, where kernels may use them.
    pub matrices: Option<MatrixUnit>,
}

/// A unit of a device that multiplies small matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MatrixUnit {
    /// Rows and columns of its matrices: 8 or 16.
    pub size: u32,
    /// Invocations of a subgroup, which multiplies two of them together.
    pub subgroup: u32,
}

impl Limits {
    /// How many rows the tiles have that a matrix unit computes, for a step of so many rows; `None` where tiles in
    /// registers are better or nothing else is possible. A program on the CPU has no such units, and only imitates them.
    pub fn matrix_rows(self, rows: u32, is_asked_for: bool) -> Option<u32> {
        let unit = self.matrices?;
        // The weights of a tile, and its rows, as pairs of 16-bit floats, and its results.
        let bytes = |tile_rows: u32| 32 * 64 * 4 + tile_rows * (32 * 4 + 64 * 4);
        let fits = |tile_rows: &u32| bytes(*tile_rows) <= self.workgroup_bytes;
        let lanes = 4 * unit.subgroup;
        let is_possible = matches!(unit.size, 8 | 16)
            && unit.subgroup.is_power_of_two()
            && (8..=64).contains(&unit.subgroup)
            && lanes <= self.workgroup_invocations;
        let is_worth_it = (!self.is_software || is_asked_for) && rows > Self::FEW_ROWS;
        let tile_rows = [64, 32].into_iter().filter(|tile_rows| *tile_rows == 32 || rows > 32).find(fits);
        tile_rows.filter(|_| is_possible && is_worth_it)
    }

    /// Up to so many rows a matrix unit would compute more rows that nobody needs than others.
    const FEW_ROWS: u32 = 16;
}

/// The rectangle of a product that a workgroup computes at once, and how its invocations share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tile {
    /// Its rows.
    pub rows: u32,
    /// Its columns, a multiple of 16.
    pub columns: u32,
    /// Rows of one invocation, all next to each other.
    pub rows_each: u32,
    /// Columns of one invocation, in quadruples that are spread over the tile.
    pub columns_each: u32,
}

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tiles {
    /// For programs on the CPU. A load is many instructions there, in a loop over the lanes of a vector, and all
    /// registers spill into the first cache: few invocations with large rectangles load least. Of 16 x 8 they would be
    /// a fifth faster, and ten times as long in the driver's compiler.
    Software,
    /// For devices with less than 256 invocations in a workgroup: 128, which take twice the rows.
    Small,
    /// For devices with 16 KiB of workgroup memory, which is what every device has: 64 rows and columns fill it.
    Medium,
    /// For devices with 24 KiB or more: 128 columns, so that rows are fetched half as often, and an invocation has
    /// twice the products for what it loads.
    Large,
}

impl Tiles {
    /// All rows.
    pub const ALL: [Tiles; 4] = [Tiles::Software, Tiles::Small, Tiles::Medium, Tiles::Large];

    /// What a device gets.
    pub fn of(limits: Limits) -> Tiles {
        match limits {
            Limits { is_software: true, .. } => Tiles::Software,
            Limits { workgroup_invocations: ..256, .. } => Tiles::Small,
            Limits { workgroup_bytes: ..24_576, .. } => Tiles::Medium,
            _ => Tiles::Large,
        }
    }

    /// Its name in the text of [`crate::Knobs`].
    pub fn name(self) -> &'static str {
        match self {
            Tiles::Software => "software",
            Tiles::Small => "small",
            Tiles::Medium => "medium",
            Tiles::Large => "large",
        }
    }

    /// The tiles of products, by how many rows a step has: the first with as many, or the last.
    pub const fn tiles(self) -> [Tile; 3] {
        const fn tile(rows: u32, columns: u32, rows_each: u32, columns_each: u32) -> Tile {
            Tile { rows, columns, rows_each, columns_each }
        }
        match self {
            Tiles::Software => [tile(16, 64, 8, 8), tile(32, 64, 8, 8), tile(64, 64, 8, 8)],
            Tiles::Small => [tile(16, 64, 2, 4), tile(32, 64, 4, 4), tile(64, 64, 8, 4)],
            Tiles::Medium => [tile(16, 64, 1, 4), tile(32, 64, 2, 4), tile(64, 64, 4, 4)],
            Tiles::Large => [tile(16, 64, 1, 4), tile(32, 128, 2, 8), tile(64, 128, 4, 8)],
        }
    }

    /// Invocations of a workgroup that multiplies a panel with a vector: a program on the CPU pays for every barrier,
    /// a GPU hides memory's latency behind many invocations.
    pub fn vector_lanes(self) -> u32 {
        if self == Tiles::Software { 64 } else { 128 }
    }
}

impl Tile {
    /// Invocations of its workgroup.
    pub const fn lanes(self) -> u32 {
        (self.rows / self.rows_each) * (self.columns / self.columns_each)
    }
}

impl fmt::Display for Tile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tile { rows, columns, rows_each, columns_each } = self;
        write!(f, "{rows} x {columns} by {rows_each} x {columns_each}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Workgroup memory of the tiled kernel: 32 columns of the input, for rows and weights.
    fn bytes(tile: Tile) -> u32 {
        (tile.rows + tile.columns) * 32 * 4
    }

    #[test]
    fn devices_get_what_they_can_run() {
        let limits = |is_software, kibibytes: u32, workgroup_invocations| Limits {
            is_software,
            workgroup_bytes: kibibytes << 10,
            workgroup_invocations,
            matrices: None,
        };
        for (device, limits, expected) in [
            ("what every device has", limits(false, 16, 128), Tiles::Small),
            ("WebGPU's default", limits(false, 16, 256), Tiles::Medium),
            ("a phone", limits(false, 32, 1024), Tiles::Large),
            ("a phone with few invocations", limits(false, 32, 128), Tiles::Small),
            ("a desktop", limits(false, 48, 1024), Tiles::Large),
            ("a program on the CPU", limits(true, 32, 1024), Tiles::Software),
        ] {
            let tiles = Tiles::of(limits);
            assert_eq!(tiles, expected, "{device}");
            for tile in tiles.tiles() {
                assert!(bytes(tile) <= limits.workgroup_bytes, "{device}: {tile}");
                assert!(tile.lanes() <= limits.workgroup_invocations, "{device}: {tile}");
            }
        }
    }

    #[test]
    fn matrix_units_compute_prompts_where_there_is_room_for_them() {
        let device = |kibibytes: u32, size, subgroup| Limits {
            is_software: false,
            workgroup_bytes: kibibytes << 10,
            workgroup_invocations: 256,
            matrices: Some(MatrixUnit { size, subgroup }),
        };
        for (limits, rows, expected) in [
            (device(48, 16, 32), 16, None),
            (device(48, 16, 32), 17, Some(32)),
            (device(48, 16, 32), 33, Some(64)),
            (device(24, 16, 64), 500, Some(32)),
            (device(16, 16, 32), 500, None),
            (device(48, 16, 128), 500, None),
            (device(48, 4, 32), 500, None),
            (Limits { matrices: None, ..device(48, 16, 32) }, 500, None),
        ] {
            assert_eq!(limits.matrix_rows(rows, false), expected, "{limits:?}, {rows} rows");
        }
        let software = Limits { is_software: true, ..device(32, 8, 8) };
        assert_eq!([false, true].map(|asked| software.matrix_rows(64, asked)), [None, Some(64)]);
    }

    #[test]
    fn tiles_are_shared_out_without_rest() {
        for tile in Tiles::ALL.into_iter().flat_map(Tiles::tiles) {
            assert!(tile.columns % 16 == 0 && tile.columns_each % 4 == 0, "{tile}");
            assert!(tile.rows % tile.rows_each == 0 && tile.columns % tile.columns_each == 0, "{tile}");
            assert!(tile.lanes().is_power_of_two() && tile.lanes() <= 256, "{tile}");
        }
        for tiles in Tiles::ALL {
            assert!(tiles.tiles().is_sorted_by_key(|tile| tile.rows), "{tiles:?}");
        }
    }
}
