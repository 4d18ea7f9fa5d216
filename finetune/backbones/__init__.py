"""MobileNetV2-FPN and VoVNet-19-FPN for Detectron2."""
