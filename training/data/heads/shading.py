"""GLSL of the head renderer: one vertex shader, one fragment shader per material, and the passes around them.

Light is a key, a fill, a rim and a sky gradient. The key's visibility and the sky's occlusion come per vertex (baked),
or the key's from a shadow map where SHADOWS is defined. Colours are squared on reading and rooted on writing, a gamma
of 2 that is cheap in software GL. Speculars: GGX (Walter et al., EGSR 2007); hair: Kajiya and Kay, SIGGRAPH 1989.
"""

from __future__ import annotations

VERTEX = """
#version 330
in vec3 P; in vec3 N; in vec2 UV; in vec3 W; in vec3 T;
uniform mat4 view; uniform mat3 turn; uniform vec3 pivot;
out vec3 place; out vec3 normal; out vec3 tangent; out vec3 raw; out vec3 unturned; out vec2 uv; out vec2 seen;
void main() {
  place = mix(P, turn * (P - pivot) + pivot, W.x);
  normal = mix(N, turn * N, W.x);
  tangent = mix(T, turn * T, W.x);
  raw = T; unturned = P; uv = UV; seen = W.yz;
  gl_Position = view * vec4(place, 1.0);
}
"""

_COMMON = """
in vec3 place; in vec3 normal; in vec3 tangent; in vec3 raw; in vec3 unturned; in vec2 uv; in vec2 seen;
out vec4 colour;
uniform vec3 eye; uniform vec3 key, fill, rim; uniform vec3 key_colour, fill_colour, rim_colour, sky, ground;
uniform sampler2D albedo;
#ifdef SHADOWS
uniform mat4 light_view; uniform sampler2DShadow shadow_map;
float key_visibility() {
  vec4 l = light_view * vec4(place + normalize(normal) * 0.02, 1.0);
  vec3 q = l.xyz * 0.5 + 0.5;
  float sum = 0.0;
  for (int i = -2; i <= 2; i++) for (int j = -2; j <= 2; j++)
    sum += texture(shadow_map, vec3(q.xy + vec2(i, j) * (1.6 / 1024.0), q.z - 0.0025));
  return sum / 25.0;
}
#else
float key_visibility() { return seen.y; }
#endif
vec3 read(sampler2D image, vec2 at) { vec3 c = texture(image, at).rgb; return c * c; }
vec3 film(vec3 c) {
  c = max(c, 0.0); c = c * (2.3 * c + 0.05) / (c * (2.2 * c + 0.62) + 0.13);
  return sqrt(clamp(c, 0.0, 1.0));
}
float gloss(vec3 n, vec3 v, vec3 l, float roughness) {
  vec3 h = normalize(v + l); float a = roughness * roughness; float nh = max(dot(n, h), 0.0);
  float d = nh * nh * (a * a - 1.0) + 1.0;
  float nl = max(dot(n, l), 0.0), nv = max(dot(n, v), 0.05), k = a * 0.5;
  float f = 1.0 - max(dot(h, v), 0.0); f = 0.028 + 0.972 * f * f * f * f * f;
  return a * a / (3.1416 * d * d) * f * nl * 0.25 / ((nl * (1.0 - k) + k) * (nv * (1.0 - k) + k));
}
vec3 ambient(vec3 n) { return mix(ground, sky, n.y * 0.5 + 0.5) * seen.x; }
"""

_SKIN = """
uniform float oil, pore, openness; uniform sampler2D detail, folds; uniform vec4 fold;
float soft(float d, float w) { return clamp((d + w) / ((1.0 + w) * (1.0 + w)), 0.0, 1.0); }
vec3 scattered(vec3 sharp, vec3 smooth_n, vec3 l) {
  vec3 w = vec3(0.40, 0.18, 0.11);
  return vec3(soft(dot(smooth_n, l), w.r), soft(dot(mix(smooth_n, sharp, 0.6), l), w.g), soft(dot(sharp, l), w.b));
}
void main() {
  vec3 v = normalize(eye - place), n = normalize(normal), bumpy = n;
  vec4 base = texture(albedo, uv); vec3 a = base.rgb * base.rgb; float wet = base.a;
#ifdef DETAIL
  vec3 d = texture(detail, uv * 26.0).rgb;
  vec3 px = dFdx(place), py = dFdy(place); vec2 ux = dFdx(uv), uy = dFdy(uv);
  vec3 along = normalize(px * uy.y - py * ux.y + 1e-9), across = normalize(py * ux.x - px * uy.x + 1e-9);
  bumpy = normalize(n + pore * ((d.r - 0.5) * along + (d.g - 0.5) * across));
#endif
  if (fold.x + fold.y + fold.z + fold.w > 0.05) {
    float crease = min(dot(texture(folds, uv), fold), 1.0); a *= 1.0 - crease * vec3(0.30, 0.38, 0.40);
  }
  float lit = key_visibility(); float mouth = step(0.74, uv.x) * step(uv.y, 0.155);
  vec3 edge = vec3(0.16, 0.04, 0.02) * lit * (1.0 - lit);
  vec3 c = a * (key_colour * (scattered(bumpy, n, key) * lit + edge * max(dot(n, key), 0.0) * 1.5)
    + fill_colour * scattered(bumpy, n, fill) * mix(0.35, 1.0, seen.x) + rim_colour * max(dot(n, rim), 0.0) * seen.x
    + ambient(bumpy) * mix(vec3(1.0), vec3(1.15, 0.95, 0.9), 1.0 - seen.x));
  float rough = mix(0.50, 0.30, wet);
  c += (key_colour * lit * (gloss(bumpy, v, key, rough) * (0.8 + wet) + gloss(bumpy, v, key, 0.27) * 0.14 * oil)
    + fill_colour * gloss(bumpy, v, fill, rough) * seen.x 
    + rim_colour * gloss(bumpy, v, rim, 0.45) * seen.x) * (1.0 - mouth);
  c *= mix(vec3(0.80, 0.70, 0.66), vec3(1.0), smoothstep(0.0, 0.75, seen.x));
  float grazing = 1.0 - max(dot(n, v), 0.0); c += sky * 0.06 * grazing * grazing * grazing * grazing * seen.x;
  if (mouth > 0.5) c = vec3(0.30, 0.075, 0.065) * (light_inside() + 0.02) * openness
    * (key_colour * max(dot(n, key) * 0.5 + 0.5, 0.0) + fill_colour * 0.5 + sky * 0.6);
  colour = vec4(film(c), 1.0);
}
"""

_HAIR = """
uniform float alpha_min, alpha_gain, shine; uniform vec4 fringe; uniform sampler2D detail;
void main() {
  vec4 texel = texture(albedo, uv); float alpha = texel.a * alpha_gain;
  if (alpha < alpha_min) discard;
  if (fringe.w > 0.5 && unturned.z > fringe.y && abs(unturned.x) < fringe.z) {
    float lock = texture(detail, vec2(unturned.x * 0.35, 0.3)).b, hairs = texture(detail, vec2(uv.x * 6.0, 0.7)).b;
    float tip = fringe.x + 0.20 * (lock - 0.5) + 0.13 * (hairs - 0.5) + 0.16 * abs(unturned.x);
    alpha *= smoothstep(-0.05, 0.05, unturned.y - tip);
    if (alpha < alpha_min) discard;
  }
  vec3 v = normalize(eye - place), n = normalize(normal); if (dot(n, v) < 0.0) n = -n;
  float strand = texture(detail, vec2(uv.x * 9.0, uv.y * 0.5)).b - 0.5;
  vec3 t = normalize(tangent + 1e-6 + n * strand * 0.45), c = vec3(0.0);
  vec3 a = texel.rgb * texel.rgb * (1.0 + 1.3 * strand) * mix(0.55, 1.0, seen.x);
  float lit = key_visibility();
  for (int i = 0; i < 3; i++) {
    vec3 l = i == 0 ? key : i == 1 ? fill : rim;
    vec3 light = i == 0 ? key_colour * lit : (i == 1 ? fill_colour : rim_colour) * seen.x;
    float tl = dot(t, l), nl = dot(n, l); vec3 h = normalize(l + v);
    float diffuse = sqrt(max(1.0 - tl * tl, 0.0)) * clamp(nl * 0.7 + 0.35, 0.0, 1.0);
    float th = dot(normalize(t + n * 0.15), h), th2 = dot(normalize(t - n * 0.1), h);
    float narrow = pow(max(1.0 - th * th, 0.0), 45.0), broad = pow(max(1.0 - th2 * th2, 0.0), 11.0);
    c += light * (a * diffuse * 0.8 + shine * (vec3(0.022) * narrow + a * 0.28 * broad) * clamp(nl + 0.3, 0.0, 1.0));
  }
  c += a * ambient(n) * 0.9;
  colour = vec4(film(c), min(alpha, 1.0));
}
"""

_CLOTH = """
void main() {
  vec4 texel = texture(albedo, uv); if (texel.a < 0.5) discard;
  vec3 v = normalize(eye - place), n = normalize(normal); if (dot(n, v) < 0.0) n = -n;
  vec3 a = texel.rgb * texel.rgb; float lit = key_visibility();
  vec3 c = a * (key_colour * max(dot(n, key) * 0.92 + 0.08, 0.0) * lit + fill_colour * max(dot(n, fill), 0.0) * seen.x
    + rim_colour * max(dot(n, rim), 0.0) + ambient(n));
  float edge = 1.0 - max(dot(n, v), 0.0); c += a * sky * 0.5 * edge * edge * edge;
  colour = vec4(film(c), 1.0);
}
"""

_INSIDE = """
uniform float corner; uniform vec2 depth_range, lips;
float light_inside() {
  float deep = smoothstep(depth_range.x, depth_range.y, unturned.z), aside = abs(unturned.x) / corner;
  float bow = 0.75 * (lips.x - lips.y) * aside * aside;
  float roof = smoothstep(-0.02, 0.05, lips.x - 0.5 * bow - unturned.y);
  float floor_ = smoothstep(-0.02, 0.04, unturned.y - lips.y - 0.5 * bow);
  return mix(0.03, 1.0, deep * deep) * smoothstep(1.05, 0.40, aside) * mix(0.45, 1.0, roof) * mix(0.55, 1.0, floor_);
}
"""

_MOUTH = """
uniform float openness, wetness;
void main() {
  vec3 v = normalize(eye - place), n = normalize(normal), a = read(albedo, uv);
  float inside = light_inside() * openness;
  float lit = mix(0.4, 1.0, seen.y);
  vec3 c = a * (key_colour * max(dot(n, key) * 0.6 + 0.4, 0.0) * lit + fill_colour * max(dot(n, fill) * 0.6 + 0.4, 0.0)
    + mix(ground, sky, n.y * 0.5 + 0.5)) * inside;
  c += inside * wetness * (key_colour * lit * gloss(n, v, key, 0.28) + fill_colour * gloss(n, v, fill, 0.3));
  colour = vec4(film(c), 1.0);
}
"""

_EYE = """
uniform vec3 iris_colour, iris_inner; uniform float iris_size, pupil_size, redness; uniform vec4 lids;
uniform mat3 gaze_turn, turn;
float hash(float x) { return fract(sin(x * 12.9898) * 43758.5453); }
float noise(float x) { float i = floor(x), f = x - i; f = f * f * (3.0 - 2.0 * f);
  return mix(hash(i), hash(i + 1.0), f); }
void main() {
  vec3 v = normalize(eye - place), n = normalize(normal), d = normalize(raw);
  float r = length(d.xy), angle = atan(d.y, d.x);
  float left = step(0.0, unturned.x); vec2 lid = mix(lids.zw, lids.xy, left);
  float under = lid.x - unturned.y, above = unturned.y - lid.y;
  float shade = smoothstep(-0.01, 0.10, under) * smoothstep(-0.03, 0.045, above);
  float side = smoothstep(0.98, 0.55, r); shade = mix(0.22, 1.0, shade) * mix(0.45, 1.0, side);
  shade *= mix(0.35, 1.0, smoothstep(0.0, 0.022, under));
  float vein = noise(angle * 14.0 + 3.0 * noise(r * 20.0)) * smoothstep(iris_size, 0.95, r);
  float blood = redness * (0.25 * smoothstep(0.55, 1.0, r) + 0.35 * vein * vein);
  vec3 a = mix(vec3(0.55, 0.52, 0.49), vec3(0.50, 0.23, 0.19), blood);
  float k = r / iris_size;
  float fibres = 0.65 + 0.5 * noise(angle * 22.0 + 6.0) * noise(angle * 9.0 + k * 3.0) + 0.15 * noise(angle * 60.0);
  vec3 iris = mix(iris_inner, iris_colour, smoothstep(pupil_size, pupil_size + 0.38, k)) * fibres * 1.25;
  iris *= mix(1.0, 0.22, smoothstep(0.74, 1.0, k));
  iris *= 0.75 + 0.6 * clamp(0.5 - dot(d.xy, (transpose(gaze_turn) * key).xy) / iris_size * 0.6, 0.0, 1.0);
  iris = mix(vec3(0.004), iris, smoothstep(pupil_size - 0.05, pupil_size + 0.05, k));
  a = mix(iris, a, smoothstep(0.93, 1.07, k));
  float lit = mix(0.5, 1.0, seen.y);
  vec3 c = a * (key_colour * max(dot(n, key) * 0.6 + 0.35, 0.0) * lit + fill_colour * max(dot(n, fill) * 0.6 + 0.4, 0.0)
    + mix(ground, sky, n.y * 0.5 + 0.5)) * shade;
  vec3 cornea = mix(n, turn * gaze_turn * normalize(vec3(d.xy * 1.75, d.z)), smoothstep(1.2, 0.95, k));
  vec3 mirrored = reflect(-v, cornea); float open_eye = 0.35 + 0.65 * shade;
  c += open_eye * key_colour * lit * (1.1 * smoothstep(0.955, 0.975, dot(mirrored, key)) + 0.02);
  c += open_eye * fill_colour * 0.5 * smoothstep(0.95, 0.98, dot(mirrored, fill));
  c += (key_colour * lit + sky) * 0.16 * smoothstep(0.016, 0.004, abs(above - 0.006)) * side;
  c += shade * shade * sky * 0.035 * (1.0 + 2.0 * smoothstep(1.1, 0.8, k) * smoothstep(0.1, 0.5, n.y + 0.2));
  colour = vec4(film(c), 1.0);
}
"""

_GLASS = """
uniform float lens, tint;
void main() {
  vec3 v = normalize(eye - place), n = normalize(normal); if (dot(n, v) < 0.0) n = -n;
  vec3 a = read(albedo, uv), mirrored = reflect(-v, n);
  float edge = 1.0 - max(dot(n, v), 0.0), fresnel = 0.04 + 0.96 * edge * edge * edge * edge * edge;
  float window = smoothstep(0.90, 0.97, dot(mirrored, key)), room = 0.5 + 0.5 * mirrored.y;
  vec3 shine = key_colour * window + mix(ground, sky, room) * (0.5 + room);
  if (lens > 0.5) {
    float glare = clamp(fresnel * 1.6 + 0.30 * window, 0.0, 0.6), alpha = glare + tint * (1.0 - glare);
    colour = vec4(film(shine) * glare / max(alpha, 1e-3), alpha);
    return;
  }
  vec3 c = a * (key_colour * max(dot(n, key) * 0.8 + 0.2, 0.0) + fill_colour * max(dot(n, fill), 0.0)
    + rim_colour * max(dot(n, rim), 0.0) + mix(ground, sky, n.y * 0.5 + 0.5));
  c += key_colour * gloss(n, v, key, 0.25) + fill_colour * gloss(n, v, fill, 0.3) + shine * fresnel * 0.5;
  colour = vec4(film(c), 1.0);
}
"""

FRAGMENTS: dict[str, str] = {
    "skin": _SKIN,
    "hair": _HAIR,
    "cloth": _CLOTH,
    "mouth": _MOUTH,
    "eye": _EYE,
    "glass": _GLASS,
}


def fragment(material: str, shadows: bool, detail: bool) -> str:
    """Source of a material's fragment shader with the wanted features compiled in."""
    defines = "#define SHADOWS\n" * shadows + "#define DETAIL\n" * detail
    inside = _INSIDE if material in ("skin", "mouth") else ""
    return "#version 330\n" + defines + _COMMON + inside + FRAGMENTS[material]


SCREEN_VERTEX = """
#version 330
in vec2 P; out vec2 uv;
void main() { uv = P * 0.5 + 0.5; gl_Position = vec4(P, 0.9999, 1.0); }
"""

COPY = """
#version 330
in vec2 uv; uniform sampler2D image; out vec4 colour;
void main() { colour = texture(image, uv); }
"""

DEPTH = """
#version 330
in vec2 uv; in vec3 unturned; uniform sampler2D albedo; uniform float alpha_min; uniform vec4 fringe;
void main() {
  if (alpha_min > 0.0 && texture(albedo, uv).a < alpha_min) discard;
  if (fringe.w > 0.5 && unturned.z > fringe.y && abs(unturned.x) < fringe.z && unturned.y < fringe.x) discard;
}
"""
