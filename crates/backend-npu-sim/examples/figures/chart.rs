//! The look of all figures: size, colours, fonts, legend. The background is white, so that dark pages do not hide ink.

use std::path::Path;

use anyhow::{Context, Result};
use plotters::chart::MeshStyle;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Width and height in pixels.
pub(crate) const SIZE: (u32, u32) = (880, 520);

/// Where the axes are: margins on the left, right, top and bottom, in pixels.
const MARGINS: (u32, u32, u32, u32) = (16, 28, 78, 14);

/// The NPU's colour.
pub(crate) const NPU: RGBColor = RGBColor(0, 98, 178);
/// The GPU's colour.
pub(crate) const GPU: RGBColor = RGBColor(213, 94, 0);
/// The CPU's colour.
pub(crate) const CPU: RGBColor = RGBColor(0, 138, 102);
/// A third line's colour.
pub(crate) const THIRD: RGBColor = RGBColor(148, 75, 150);
/// Text and axes.
pub(crate) const INK: RGBColor = RGBColor(38, 42, 48);
/// What is secondary.
pub(crate) const PALE: RGBColor = RGBColor(110, 116, 124);
/// Lines of the grid.
pub(crate) const GRID: RGBColor = RGBColor(226, 229, 233);

/// What can be drawn on.
pub(crate) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// A white area with a title and a line below it.
pub(crate) fn page<'a>(path: &'a Path, title: &str, subtitle: &str) -> Result<Area<'a>> {
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    area.fill(&WHITE).map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
    area.draw(&Text::new(title.to_owned(), (24, 16), font(21).style(FontStyle::Bold).color(&INK)))?;
    area.draw(&Text::new(subtitle.to_owned(), (24, 46), font(14).color(&PALE)))?;
    Ok(area)
}

/// The part of a page that holds the axes, with so much room for the labels of x and y, in pixels.
pub(crate) fn sheet<'a, 'b>(page: &'b Area<'a>, [x_room, y_room]: [u32; 2]) -> ChartBuilder<'b, 'b, SVGBackend<'a>> {
    let (left, right, top, bottom) = MARGINS;
    let mut sheet = ChartBuilder::on(page);
    sheet.margin_left(left).margin_right(right).margin_top(top).margin_bottom(bottom);
    sheet.x_label_area_size(x_room).y_label_area_size(y_room);
    sheet
}

/// How axes and grid look on every figure.
pub(crate) fn style<'m, 'a, 'b, X: Ranged, Y: Ranged, Backend: DrawingBackend>(
    mesh: &'m mut MeshStyle<'a, 'b, X, Y, Backend>,
) -> &'m mut MeshStyle<'a, 'b, X, Y, Backend> {
    mesh.axis_desc_style(font(15).color(&INK))
        .label_style(font(13).color(&INK))
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .axis_style(INK)
}

/// The font of all text.
pub(crate) fn font(size: u32) -> FontDesc<'static> {
    ("Helvetica, Arial, sans-serif", size).into_font()
}

/// The style of text that is centred on its point.
pub(crate) fn centred(size: u32, color: &RGBColor) -> TextStyle<'static> {
    font(size).color(color).pos(Pos::new(HPos::Center, VPos::Center))
}

/// Text that begins at its point, at half of its height.
pub(crate) fn beside(size: u32, color: &RGBColor) -> TextStyle<'static> {
    font(size).color(color).pos(Pos::new(HPos::Left, VPos::Center))
}

/// What stands before an entry of the legend.
#[derive(Clone, Copy)]
pub(crate) enum Mark {
    /// A line.
    Line(RGBColor),
    /// A point of the paper.
    Point(RGBColor),
    /// A range of the paper.
    Range,
}

/// A legend whose first entry has its middle at `(x, y)`, in pixels of the whole figure.
pub(crate) fn legend(area: &Area<'_>, (x, y): (i32, i32), entries: &[(Mark, &str)]) -> Result<()> {
    let (width, step) = (230, 23);
    let bottom = y + step * entries.len() as i32 - 8;
    area.draw(&Rectangle::new([(x - 12, y - 15), (x + width, bottom)], WHITE.mix(0.92).filled()))?;
    area.draw(&Rectangle::new([(x - 12, y - 15), (x + width, bottom)], GRID))?;
    for (idx, (mark, text)) in entries.iter().enumerate() {
        let y = y + step * idx as i32;
        match mark {
            Mark::Line(color) => area.draw(&PathElement::new([(x, y), (x + 24, y)], color.stroke_width(3)))?,
            Mark::Point(color) => {
                area.draw(&Circle::new((x + 12, y), 6, WHITE.filled()))?;
                area.draw(&Circle::new((x + 12, y), 5, color.filled()))?;
            }
            Mark::Range => {
                area.draw(&Rectangle::new([(x + 2, y - 7), (x + 22, y + 7)], INK.mix(0.16).filled()))?;
                area.draw(&Rectangle::new([(x + 2, y - 7), (x + 22, y + 7)], INK.mix(0.5)))?;
            }
        }
        area.draw(&Text::new((*text).to_owned(), (x + 34, y), beside(14, &INK)))?;
    }
    Ok(())
}

/// A vertical line of the grid with its number below, in pixels of the whole figure.
pub(crate) fn tick(area: &Area<'_>, floor: (i32, i32), ceiling: (i32, i32), text: &str) -> Result<()> {
    area.draw(&PathElement::new([floor, ceiling], GRID))?;
    area.draw(&PathElement::new([floor, (floor.0, floor.1 + 5)], INK))?;
    area.draw(&Text::new(text.to_owned(), (floor.0, floor.1 + 15), centred(13, &INK)))?;
    Ok(())
}

/// Writes the file.
pub(crate) fn finish(area: &Area<'_>, path: &Path) -> Result<()> {
    area.present().with_context(|| format!("cannot write {}", path.display()))
}
