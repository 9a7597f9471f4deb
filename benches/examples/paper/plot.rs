//! The two kinds of figure: lines over lengths, and bars in groups. Points are the paper's.

use std::path::Path;

use anyhow::Result;
use plotters::prelude::*;

use crate::chart::{self, CPU, GPU, INK, Mark, NPU, PALE, THIRD};
use crate::lab::{CPU_ONLY, GPU_ONLY, LAYER, NPU_ONLY, TENSOR, WHOLE, WHOLE_3, Way};

/// What stands around the axes of a figure.
pub(crate) struct Frame<'a> {
    pub(crate) title: &'a str,
    pub(crate) subtitle: &'a str,
    pub(crate) y_desc: &'a str,
    /// Where the axis of y ends.
    pub(crate) most: f64,
    /// Where the legend's first line is, in pixels.
    pub(crate) legend: (i32, i32),
}

/// A line of a figure.
pub(crate) struct Line {
    pub(crate) name: &'static str,
    pub(crate) color: RGBColor,
    /// Length and value.
    pub(crate) points: Vec<(usize, f64)>,
}

/// Bars side by side over one name.
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) bars: Vec<Bar>,
}

/// One bar, of one colour or of several on top of one another.
pub(crate) struct Bar {
    pub(crate) pieces: Vec<(f64, RGBColor)>,
    /// What is written over it.
    pub(crate) label: String,
    /// The paper's value.
    pub(crate) paper: Option<f64>,
}

impl Bar {
    pub(crate) fn new(value: f64, color: RGBColor, digits: usize) -> Bar {
        Bar { pieces: vec![(value, color)], label: format!("{value:.digits$}"), paper: None }
    }

    pub(crate) fn beside(self, paper: f64) -> Bar {
        Bar { paper: Some(paper), ..self }
    }
}

/// The colour of a way in all figures.
pub(crate) fn color_of(way: Way) -> RGBColor {
    match way {
        GPU_ONLY => GPU,
        NPU_ONLY => NPU,
        CPU_ONLY | WHOLE_3 => CPU,
        LAYER => PALE,
        TENSOR => THIRD,
        WHOLE => INK,
        _ => unreachable!("{} has no colour", way.name),
    }
}

/// Draws lines over lengths; `powers` puts powers of two at equal distances. `marks` are the paper's points.
pub(crate) fn lines(
    path: &Path,
    frame: &Frame<'_>,
    ticks: &[usize],
    powers: bool,
    lines: &[Line],
    marks: &[(usize, f64, RGBColor)],
) -> Result<()> {
    let at = |length: usize| if powers { (length as f64).log2() } else { length as f64 };
    let page = chart::page(path, frame.title, frame.subtitle)?;
    let (first, last) = (at(ticks[0]), at(ticks[ticks.len() - 1]));
    let mut axes = chart::sheet(&page, [46, 62]).build_cartesian_2d(first..last, 0.0..frame.most)?;
    let mut mesh = axes.configure_mesh();
    chart::style(&mut mesh)
        .x_desc("tokens of the prompt")
        .y_desc(frame.y_desc)
        .disable_x_mesh()
        .x_labels(0)
        .y_labels(8)
        .y_label_formatter(&|value| format!("{value:.0}"))
        .draw()?;
    for &length in ticks {
        let [floor, ceiling] = [0.0, frame.most].map(|value| axes.backend_coord(&(at(length), value)));
        chart::tick(&page, floor, ceiling, &length.to_string())?;
    }
    for line in lines {
        let points: Vec<(f64, f64)> = line.points.iter().map(|&(length, value)| (at(length), value)).collect();
        axes.draw_series(LineSeries::new(points.iter().copied(), line.color.stroke_width(3)))?;
        axes.draw_series(points.iter().map(|&point| Circle::new(point, 3, line.color.filled())))?;
    }
    for &(length, value, color) in marks {
        let point = (at(length), value);
        axes.draw_series([
            Circle::new(point, 8, INK.filled()),
            Circle::new(point, 7, WHITE.filled()),
            Circle::new(point, 5, color.filled()),
        ])?;
    }
    let mut entries: Vec<(Mark, &str)> = lines.iter().map(|line| (Mark::Line(line.color), line.name)).collect();
    if !marks.is_empty() {
        entries.push((Mark::Point(INK), "paper"));
    }
    chart::legend(&page, frame.legend, &entries)?;
    chart::finish(&page, path)
}

/// Draws bars in groups.
pub(crate) fn bars(path: &Path, frame: &Frame<'_>, groups: &[Group], legend: &[(RGBColor, &str)]) -> Result<()> {
    let page = chart::page(path, frame.title, frame.subtitle)?;
    let most_bars = groups.iter().map(|group| group.bars.len()).max().unwrap_or(1);
    let width = 0.86 / most_bars as f64;
    let last = groups.len() as f64 - 0.5;
    let mut axes = chart::sheet(&page, [34, 62]).build_cartesian_2d(-0.5..last, 0.0..frame.most)?;
    let mut mesh = axes.configure_mesh();
    chart::style(&mut mesh)
        .disable_x_mesh()
        .disable_x_axis()
        .y_desc(frame.y_desc)
        .y_labels(8)
        .y_label_formatter(&|value| format!("{value:.0}"))
        .draw()?;
    let size = if groups.len() * most_bars > 12 { 11 } else { 13 };
    for (idx, group) in groups.iter().enumerate() {
        let first = idx as f64 - width * (group.bars.len() as f64 - 1.0) / 2.0;
        for (bar_idx, bar) in group.bars.iter().enumerate() {
            let x = first + width * bar_idx as f64;
            let mut top = 0.0;
            for &(value, color) in &bar.pieces {
                let corners = [(x - 0.46 * width, top), (x + 0.46 * width, top + value)];
                axes.draw_series([Rectangle::new(corners, color.filled())])?;
                top += value;
            }
            let (x_pixel, mut y_pixel) = axes.backend_coord(&(x, top));
            if let Some((_, paper)) = bar.paper.map(|paper| axes.backend_coord(&(x, paper)))
                && (y_pixel - paper).abs() < 18
            {
                // The label is not to lie under the point.
                y_pixel = y_pixel.min(paper - 6);
            }
            page.draw(&Text::new(bar.label.clone(), (x_pixel, y_pixel - 9), chart::centred(size, &INK)))?;
            if let Some(paper) = bar.paper {
                let point = (x, paper);
                axes.draw_series([Circle::new(point, 7, WHITE.filled()), Circle::new(point, 5, INK.filled())])?;
            }
        }
        let (middle, floor) = axes.backend_coord(&(idx as f64, 0.0));
        page.draw(&Text::new(group.name.clone(), (middle, floor + 18), chart::centred(14, &INK)))?;
    }
    let mut entries: Vec<(Mark, &str)> = legend.iter().map(|&(color, name)| (Mark::Line(color), name)).collect();
    if groups.iter().flat_map(|group| &group.bars).any(|bar| bar.paper.is_some()) {
        entries.push((Mark::Point(INK), "paper"));
    }
    chart::legend(&page, frame.legend, &entries)?;
    chart::finish(&page, path)
}

/// The end of an axis that has room for a value and a legend of so many lines above it.
pub(crate) fn room_above(most: f64, n_legend: usize) -> f64 {
    // A line of the legend takes 23 of the 394 pixels of the axis.
    let share = 1.0 - (23.0 * n_legend as f64 + 30.0) / 394.0;
    nice(most / share)
}

/// A round number of at least `value`.
pub(crate) fn nice(value: f64) -> f64 {
    let unit = 10f64.powf(value.log10().floor()) / 4.0;
    (value / unit).ceil() * unit
}
