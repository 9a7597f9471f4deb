//! NPU latency against the number of rows: a staircase of the array's size, above the floor of unpacking weights.

use std::path::Path;

use anyhow::Result;
use hetero_core::DeviceKind;
use plotters::prelude::*;

use crate::Source;
use crate::chart::{self, INK, Mark, NPU};
use crate::paper::Shape;

const MOST_ROWS: usize = 384;
const MOST_MS: f64 = 3.2;

/// Draws the figure.
pub(crate) fn draw(source: &Source, path: &Path) -> Result<()> {
    let page = chart::page(
        path,
        "The NPU's latency is a staircase",
        "Attention projection 4096 x 4096 with 4-bit weights on the simulated Snapdragon 8 Gen 3",
    )?;
    let mut axes = chart::sheet(&page, [46, 54]).build_cartesian_2d(0.0..MOST_ROWS as f64, 0.0..MOST_MS)?;
    let mut mesh = axes.configure_mesh();
    chart::style(&mut mesh)
        .x_desc("rows of activations")
        .y_desc("latency, ms")
        .disable_x_mesh()
        .x_labels(0)
        .y_labels(9)
        .y_label_formatter(&|ms| format!("{ms:.1}"))
        .draw()?;
    for rows in (0..=MOST_ROWS).step_by(32) {
        let [floor, ceiling] = [0.0, MOST_MS].map(|ms| axes.backend_coord(&(rows as f64, ms)));
        chart::tick(&page, floor, ceiling, &rows.to_string())?;
    }

    for (name, rows) in [("193 to 255", (193.0, 255.0)), ("257 to 272", (257.0, 272.0))] {
        let (least, most) = source.fact(&format!("attention projection, {name} rows, NPU"))?;
        // A single value stands for the whole range of rows; a little height makes it visible.
        let half = if least == most { 12.0 } else { 0.0 };
        let corners = [(rows.0, (least - half) / 1e3), (rows.1, (most + half) / 1e3)];
        axes.draw_series([
            Rectangle::new(corners, INK.mix(0.16).filled()),
            Rectangle::new(corners, INK.mix(0.5).stroke_width(1)),
        ])?;
    }
    let ms = |rows: usize| source.phone.operator_seconds(DeviceKind::Npu, Shape { m: rows, n: 4096, k: 4096 }) * 1e3;
    // A step is drawn from its first row to its last, so that it is flat.
    let line = (1..=MOST_ROWS).flat_map(|rows| [(rows as f64 - 1.0, ms(rows)), (rows as f64, ms(rows))]);
    axes.draw_series(LineSeries::new(line, NPU.stroke_width(3)))?;
    for rows in [1, 128, 256] {
        let plural = if rows == 1 { "row" } else { "rows" };
        let (us, _) = source.fact(&format!("attention projection, {rows} {plural}, NPU"))?;
        let point = (rows as f64, us / 1e3);
        axes.draw_series([Circle::new(point, 6, WHITE.filled()), Circle::new(point, 5, INK.filled())])?;
    }
    let note = chart::beside(14, &INK);
    axes.draw_series([
        Text::new("few rows: unpacking the weights takes longer than multiplying", (8.0, 0.45), note.clone()),
        Text::new("a step of 32 rows", (294.0, 2.02), note),
    ])?;
    chart::legend(
        &page,
        (110, 112),
        &[
            (Mark::Line(NPU), "simulated"),
            (Mark::Point(INK), "paper, table 3"),
            (Mark::Range, "paper, table 3: a range"),
        ],
    )?;
    chart::finish(&page, path)
}
