/** A class of the model. */
export interface Class {
  readonly index: number;
  readonly name: string;
  /** Red, green and blue, 0 to 255. */
  readonly colour: readonly [number, number, number];
}

/** How much of a picture a class covers. */
export interface Area extends Class {
  readonly pixels: number;
  readonly percent: number;
}

export interface Size {
  readonly width: number;
  readonly height: number;
}

/** What was found in a picture. */
export interface Result extends Size {
  /** The class of every pixel, row by row; 16 bits above 255 classes. */
  readonly labels: Uint8Array | Uint16Array;
  /** The classes that occur, the largest first. */
  readonly areas: readonly Area[];
  /** What it took, from the picture's pixels to its labels. */
  readonly milliseconds: number;
}

/** A model, ready to label; it computes in a worker, so a page stays responsive. */
export interface Segmenter {
  readonly classes: readonly Class[];
  readonly name: string;
  readonly precision: "fp32" | "fp16" | "int8";
  /** Under what terms the model may be used, if that is known. */
  readonly terms: string | null;
  readonly backend: "webgpu" | "wasm";
  /** Of WebAssembly. It is 1 where the server does not send the headers that threads need. */
  readonly threads: number;
  /**
   * Label a picture; calls wait for each other. The bitmap stays usable. The label map has the
   * bitmap's size, unless `size` names another.
   */
  label(image: ImageBitmap, size?: Size): Promise<Result>;
  /** Free its memory; calls that wait fail. */
  close(): void;
}

export interface LoadOptions {
  /** "auto" takes WebGPU where there is a graphics processor, else WebAssembly. */
  readonly backend?: "auto" | "webgpu" | "wasm";
  /** Of WebAssembly; by default one for each core, four at most. */
  readonly threads?: number;
}

/** Whatever fails is told in one sentence. */
export class SctnetError extends Error {}

/** Open a model's folder; its address is relative to the page. */
export function load(folder: string | URL, options?: LoadOptions): Promise<Segmenter>;

/** Return a PNG whose pixel values are the classes, as `sctnet predict` writes it. */
export function encodeMask(result: Result, classes: readonly Class[]): Promise<Blob>;
