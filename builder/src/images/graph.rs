//! The layers: which image is built on which, and in what order they can be made.

use indexmap::IndexMap;

use super::{From, Kilnfile, Recipe, Target};

/// The images of one kiln.yaml with what each is built on.
///
/// A checked kiln.yaml has no circles and no base that is not there.
pub struct Graph<'a> {
    images: IndexMap<&'a str, &'a Recipe>,
}

impl<'a> Graph<'a> {
    /// The graph of all images of the file.
    pub fn of(file: &'a Kilnfile) -> Graph<'a> {
        Graph { images: file.images().map(|recipe| (recipe.label.as_str(), recipe)).collect() }
    }

    /// The graph of the images that can be made at a target.
    pub fn at(file: &'a Kilnfile, target: &Target) -> Graph<'a> {
        Graph { images: file.images_at(target).map(|recipe| (recipe.label.as_str(), recipe)).collect() }
    }

    /// Every image, each behind the one it is built on; otherwise in the order of the file.
    pub fn parents_first(&self) -> Vec<&'a Recipe> {
        let mut ordered: Vec<&Recipe> = self.images.values().copied().collect();
        // A stable sort: what is equally deep stays as the file has it.
        ordered.sort_by_key(|recipe| self.depth(recipe));
        ordered
    }

    /// The image of kiln.yaml that this one is built on: the variant for the same processor and store.
    pub fn parent(&self, recipe: &Recipe) -> Option<&'a Recipe> {
        let From::Image(name) = &recipe.from else { return None };
        let is_parent =
            |other: &&Recipe| other.name == *name && (other.arch, other.store) == (recipe.arch, recipe.store);
        self.images.values().copied().find(is_parent)
    }

    /// The images that are built directly on this one.
    pub fn children(&self, recipe: &Recipe) -> impl Iterator<Item = &'a Recipe> {
        let parent = recipe.label.clone();
        self.images.values().copied().filter(move |child| self.parent(child).is_some_and(|it| it.label == parent))
    }

    /// The images that are built on nothing of this file.
    pub fn roots(&self) -> impl Iterator<Item = &'a Recipe> {
        self.images.values().copied().filter(|recipe| self.parent(recipe).is_none())
    }

    /// How many images of the file are below this one.
    pub fn depth(&self, recipe: &Recipe) -> usize {
        std::iter::successors(self.parent(recipe), |parent| self.parent(parent)).count()
    }
}

/// The graph as a tree for a terminal.
pub fn text(graph: &Graph) -> String {
    let mut out = String::new();
    for root in graph.roots() {
        out.push_str(&outside(root));
        out.push('\n');
        branch(graph, root, "", true, &mut out);
    }
    out
}

fn branch(graph: &Graph, recipe: &Recipe, indent: &str, last: bool, out: &mut String) {
    let (fork, below) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
    out.push_str(&format!("{indent}{fork}{}  {}\n", recipe.label, about(recipe)));
    let children: Vec<_> = graph.children(recipe).collect();
    let indent = format!("{indent}{below}");
    for (index, child) in children.iter().enumerate() {
        branch(graph, child, &indent, index + 1 == children.len(), out);
    }
}

/// The graph for a program: a line an image, each behind the one it is built on.
pub fn json(graph: &Graph) -> String {
    let line = |recipe: &Recipe| {
        let parent = graph.parent(recipe).map(|parent| parent.label.as_str());
        let line = serde_json::json!({
            "image": recipe.label, "name": recipe.name, "layer": recipe.layer.name(), "arch": recipe.arch.name(),
            "store": recipe.store.name(), "parent": parent,
        });
        format!("{line}\n")
    };
    graph.parents_first().into_iter().map(line).collect()
}

/// What a root is built on, in the words of kiln.yaml.
fn outside(recipe: &Recipe) -> String {
    match &recipe.from {
        From::Ami(filter) => filter.to_string(),
        From::Ssm(parameter) => parameter.to_string(),
        From::Image(name) => name.clone(),
    }
}

/// Layer and, where it has them, role, version and processor.
fn about(recipe: &Recipe) -> String {
    let mut words = vec![recipe.layer.name().to_owned()];
    words.extend(recipe.role.as_ref().map(|role| format!("role {role}")));
    if recipe.version != "0" {
        words.push(format!("version {}", recipe.version));
    }
    words.push(recipe.arch.name().to_owned());
    words.join(", ")
}

/// Sizes of the drawing, in pixels.
const BOX: (usize, usize) = (210, 44);
const GAP: (usize, usize) = (60, 16);
const MARGIN: usize = 16;

/// The graph as an SVG picture: a column a layer of depth, every image right of its base.
pub fn svg(graph: &Graph) -> String {
    let mut placed: Vec<(&Recipe, usize, usize)> = Vec::new();
    let mut row = 0;
    for root in graph.roots() {
        place(graph, root, 0, &mut row, &mut placed);
    }
    let at = |column: usize, row: usize| (MARGIN + column * (BOX.0 + GAP.0), MARGIN + row * (BOX.1 + GAP.1));
    let columns = placed.iter().map(|(_, column, _)| column + 1).max().unwrap_or(0);
    let (width, height) = at(columns, row);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n"
    );
    for (recipe, column, row) in &placed {
        let (x, y) = at(*column, *row);
        let parent =
            graph.parent(recipe).and_then(|parent| placed.iter().find(|(other, ..)| other.label == parent.label));
        if let Some((_, parent_column, parent_row)) = parent {
            let (from_x, from_y) = at(*parent_column, *parent_row);
            let (from_x, from_y, to_y) = (from_x + BOX.0, from_y + BOX.1 / 2, y + BOX.1 / 2);
            let bend = from_x + GAP.0 / 2;
            out += &format!("<path d=\"M{from_x} {from_y}H{bend}V{to_y}H{x}\" fill=\"none\" stroke=\"#888\"/>\n");
        }
        out += &format!(
            "<g><title>{}</title><rect x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{}\" rx=\"4\" fill=\"#f4f4f0\" \
             stroke=\"#444\"/><text x=\"{tx}\" y=\"{}\" font-weight=\"bold\">{}</text><text x=\"{tx}\" y=\"{}\" \
             fill=\"#555\">{}</text></g>\n",
            escape(&outside(recipe)),
            BOX.0,
            BOX.1,
            y + 18,
            escape(&recipe.label),
            y + 35,
            escape(&about(recipe)),
            tx = x + 8,
        );
    }
    out + "</svg>\n"
}

/// Gives an image the row of its first child, and each further child a row of its own.
fn place<'a>(
    graph: &Graph<'a>,
    recipe: &'a Recipe,
    column: usize,
    row: &mut usize,
    placed: &mut Vec<(&'a Recipe, usize, usize)>,
) {
    placed.push((recipe, column, *row));
    let mut children = graph.children(recipe).peekable();
    if children.peek().is_none() {
        *row += 1;
    }
    children.for_each(|child| place(graph, child, column + 1, row, placed));
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::load::tests::parsed;

    const GOLDEN: &str = "{layer: golden, from: {ami: {owners: [self], name: \"deb-<12>-*\"}}}";

    fn file() -> Kilnfile {
        parsed(&format!(
            "images:\n  shop: {{layer: app, from: jetty, role: shop, version: 1.2}}\n  jetty: {{layer: base, from: \
             golden}}\n  golden: {GOLDEN}\n  tool: {{layer: app, from: golden}}\n  other: {GOLDEN}\n"
        ))
    }

    #[test]
    fn every_image_comes_behind_its_base_and_else_as_the_file_has_it() {
        let file = file();
        let names: Vec<_> = Graph::of(&file).parents_first().iter().map(|recipe| recipe.name.as_str()).collect();
        assert_eq!(names, ["golden", "other", "jetty", "tool", "shop"]);
    }

    #[test]
    fn the_tree_shows_what_is_built_on_what() {
        let file = file();
        assert_eq!(
            text(&Graph::of(&file)),
            "deb-<12>-* of self\n\
             └─ golden  golden, x86_64\n\
             \u{20}  ├─ jetty  base, x86_64\n\
             \u{20}  │  └─ shop  app, role shop, version 1.2, x86_64\n\
             \u{20}  └─ tool  app, x86_64\n\
             deb-<12>-* of self\n\
             └─ other  golden, x86_64\n"
        );
    }

    #[test]
    fn a_variant_is_built_on_the_variant_for_the_same_processor() {
        let file = parsed(&format!(
            "defaults: {{arch: [x86_64, arm64]}}\nimages:\n  golden: {GOLDEN}\n  app: {{layer: app, from: golden}}\n"
        ));
        assert_eq!(
            text(&Graph::of(&file)),
            "deb-<12>-* of self\n\
             └─ golden:x86_64  golden, x86_64\n\
             \u{20}  └─ app:x86_64  app, x86_64\n\
             deb-<12>-* of self\n\
             └─ golden:arm64  golden, arm64\n\
             \u{20}  └─ app:arm64  app, arm64\n"
        );
    }

    #[test]
    fn the_picture_has_a_box_an_image_a_line_a_base_and_no_markup_from_names() {
        let file = file();
        let picture = svg(&Graph::of(&file));
        assert_eq!((picture.matches("<rect").count(), picture.matches("<path").count()), (5, 3));
        assert!(picture.contains("deb-&lt;12&gt;-* of self") && !picture.contains("<12>"), "{picture}");
        // `tool` stands a row below `shop`, which shares the row of golden and jetty.
        assert!(picture.contains("<path d=\"M226 38H256V98H286\""), "{picture}");
    }
}
