"""With-blocks as code: a traced block runs later and elsewhere than where it is written.

nnsight finds its blocks by looking at frames while they run. Here the whole source is at hand, so it is rewritten before it
runs: `with X as y: BODY` becomes "if X is a tracer, hand it BODY as code and the names around it; else run it in place".
"""

import ast
import builtins
import linecache
import sys

#: Bodies of with-statements, by the number that the rewritten source names.
CODES = []
#: The class whose objects take their block as code; `nnsight.py` sets it.
TRACER = None
#: Names that functions share among the blocks written in them, by frame; dropped when the trace ends.
_SHARED = {}
#: How the rewritten source reaches this module, and what its own names begin with.
HOOK = "__mediant_block__"
HIDDEN = "_mediant_"


class Scope(dict):
    """The names of a block, as nnsight's rules have them.

    First the names as they were where the block was written, and what it binds itself; then what the blocks beside it bound;
    then the globals.
    """

    def __init__(self, own, shared, glbls):
        super().__init__(own)
        self.shared = shared
        self.glbls = glbls
        self.written = {}

    def __missing__(self, key):
        try:
            return self.shared[key]
        except KeyError:
            return self.glbls[key]

    def __setitem__(self, key, value):
        super().__setitem__(key, value)
        if not key.startswith(HIDDEN):
            self.shared[key] = value
            self.written[key] = None

    def __delitem__(self, key):
        super().__delitem__(key)
        self.shared.pop(key, None)
        self.written.pop(key, None)

    def writes(self):
        """What the block bound, in the order in which it did."""
        return {k: self[k] for k in self.written if k in self}


def is_tracer(x):
    """Whether a with-statement over `x` hands its body over as code."""
    return isinstance(x, TRACER)


def run(tracer, number, names, glbls):
    """Hands a body to its tracer; what it bound goes back to where it was written."""
    frame = sys._getframe(1)
    key = id(names) if isinstance(names, Scope) else id(frame)
    # The owner is held with its store: its id must not be given to another.
    shared = _SHARED.setdefault(key, (names if isinstance(names, Scope) else frame, {}))[1]
    own = {k: v for k, v in names.items() if not k.startswith(HIDDEN)}
    return tracer.run(CODES[number], Scope(own, shared, glbls))


def forget():
    """The blocks that shared names are done."""
    _SHARED.clear()


class _Names(ast.NodeVisitor):
    """Which names a body binds and which it looks up, not going into scopes of their own for what is bound."""

    def __init__(self):
        self.bound = {}
        self.loaded = {}
        self.outer = set()
        self.depth = 0

    def _bind(self, name):
        if not self.depth:
            self.bound[name] = None

    def visit_Name(self, node):
        if isinstance(node.ctx, ast.Load):
            self.loaded[node.id] = None
        else:
            self._bind(node.id)

    def _scope(self, node):
        self._bind(node.name)
        self._inside(node)

    def _inside(self, node):
        self.depth += 1
        self.generic_visit(node)
        self.depth -= 1

    visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = _scope
    visit_Lambda = _inside

    def _comprehension(self, node):
        # its targets are its own, what a walrus in it binds is not
        for part in ast.walk(node):
            if isinstance(part, ast.NamedExpr):
                self._bind(part.target.id)
        self._inside(node)

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = _comprehension

    def visit_Global(self, node):
        self.outer.update(node.names)

    visit_Nonlocal = visit_Global

    def _import(self, node):
        for alias in node.names:
            self._bind((alias.asname or alias.name).split(".")[0])

    visit_Import = visit_ImportFrom = _import

    def visit_ExceptHandler(self, node):
        if node.name:
            self._bind(node.name)
        self.generic_visit(node)

    def _pattern(self, node):
        name = getattr(node, "name", None) or getattr(node, "rest", None)
        if name:
            self._bind(name)
        self.generic_visit(node)

    visit_MatchAs = visit_MatchStar = visit_MatchMapping = _pattern


class _Rewrite(ast.NodeTransformer):
    def __init__(self, filename, name):
        self.filename = filename
        self.name = name
        self.functions = []
        self.outer = set()

    def _function(self, node):
        name, outer = self.name, self.outer
        names = _Names()
        for statement in node.body:
            names.visit(statement)
        self.name, self.outer = node.name, names.outer
        self.functions.append(node)
        self.generic_visit(node)
        self.functions.pop()
        self.name, self.outer = name, outer
        return node

    visit_FunctionDef = visit_AsyncFunctionDef = _function

    def visit_With(self, node):
        first, rest = node.items[0], node.items[1:]
        if rest:
            inner = ast.copy_location(ast.With(items=rest, body=node.body), node)
            node = ast.copy_location(ast.With(items=[first], body=[inner]), node)
        names = _Names()
        for statement in node.body:
            names.visit(statement)
        self.generic_visit(node)
        number = self._body(node.body)
        held = f"{HIDDEN}with{number}"
        got = f"{HIDDEN}got{number}"

        def load(name):
            return ast.Name(id=name, ctx=ast.Load())

        def hook(method, *args):
            return ast.Call(func=ast.Attribute(value=load(HOOK), attr=method, ctx=ast.Load()), args=list(args), keywords=[])

        def call(name):
            return ast.Call(func=load(name), args=[], keywords=[])

        traced = []
        if first.optional_vars is not None:
            traced.append(ast.Assign(targets=[first.optional_vars], value=hook("entered", load(held))))
        traced.append(
            ast.Assign(
                targets=[ast.Name(id=got, ctx=ast.Store())],
                value=hook("run", load(held), ast.Constant(value=number), call("locals"), call("globals")),
            )
        )
        for name in names.bound:
            if name in self.outer or name in names.outer:
                continue
            there = ast.Compare(left=ast.Constant(value=name), ops=[ast.In()], comparators=[load(got)])
            value = ast.Subscript(value=load(got), slice=ast.Constant(value=name), ctx=ast.Load())
            traced.append(ast.If(test=there, body=[ast.Assign(targets=[ast.Name(id=name, ctx=ast.Store())], value=value)], orelse=[]))
        if self.functions and names.loaded:
            # Never run: makes what the body looks up a name of this function, also where it comes from one around it.
            looks = [ast.Expr(value=load(name)) for name in names.loaded]
            traced.append(ast.If(test=ast.Constant(value=False), body=looks, orelse=[]))
        plain = ast.With(items=[ast.withitem(context_expr=load(held), optional_vars=first.optional_vars)], body=node.body)
        new = [
            ast.Assign(targets=[ast.Name(id=held, ctx=ast.Store())], value=first.context_expr),
            ast.If(test=hook("is_tracer", load(held)), body=traced, orelse=[plain]),
        ]
        for statement in new:
            ast.copy_location(statement, node)
            ast.fix_missing_locations(statement)
        return new

    def _body(self, statements):
        module = ast.Module(body=statements, type_ignores=[])
        try:
            code = compile(ast.fix_missing_locations(module), self.filename, "exec").replace(co_name=self.name)
        except SyntaxError as error:
            # `return`, `yield` or `break` out of a block that may not be a tracer's: wrong only if it is one.
            code = error
        CODES.append(code)
        return len(CODES) - 1


def entered(tracer):
    """What `as` binds."""
    return tracer.__enter__()


def execute(code, scope):
    """Runs a body in its scope."""
    if isinstance(code, SyntaxError):
        raise code
    exec(code, scope)


def parse(source, filename, name):
    """Source of a client's, rewritten; `name`: what tracebacks call the code around it."""
    linecache.cache[filename] = (len(source), None, source.splitlines(True), filename)
    tree = _Rewrite(filename, name).visit(ast.parse(source, filename))
    return ast.fix_missing_locations(tree)


def install():
    """Makes the rewritten source find this module."""
    setattr(builtins, HOOK, sys.modules[__name__])
